"""Cutonce in Python: images in, features, heads and networks out::

    from pipeline import TransferClassifier, features
    X = features(paths, cache="features")
    classifier = TransferClassifier("logistic").fit(X, labels)

Nothing is printed, drawn or left on disk that was not asked for, and importing changes nothing in the process. What is
told on the way is logged, as ``cutonce``. Names are loaded when first used, so that importing the package stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.own_packages import require_own_packages

if TYPE_CHECKING:
    from pipeline.export.loaded_run import LoadedRun as LoadedRun
    from pipeline.export.loaded_run import load as load
    from pipeline.library.backbones import Preprocessing as Preprocessing
    from pipeline.library.backbones import backbone_from_module as backbone_from_module
    from pipeline.library.dataset import CachedDataset as CachedDataset
    from pipeline.library.estimators import FeatureExtractor as FeatureExtractor
    from pipeline.library.estimators import TransferClassifier as TransferClassifier
    from pipeline.library.finetuning import FinetunedNetwork as FinetunedNetwork
    from pipeline.library.finetuning import finetune as finetune
    from pipeline.library.functions import compare as compare
    from pipeline.library.functions import features as features
    from pipeline.library.regressor import TransferRegressor as TransferRegressor
    from pipeline.library.segmenter import TransferSegmenter as TransferSegmenter
    from stages.config.data import DataConfig as DataConfig
    from stages.config.features import FeatureConfig as FeatureConfig
    from stages.config.finetune import FinetuneConfig as FinetuneConfig
    from stages.config.heads import HeadConfig as HeadConfig

_HOME = {
    "CachedDataset": "pipeline.library.dataset",
    "DataConfig": "stages.config.data",
    "FeatureConfig": "stages.config.features",
    "FeatureExtractor": "pipeline.library.estimators",
    "FinetuneConfig": "stages.config.finetune",
    "FinetunedNetwork": "pipeline.library.finetuning",
    "HeadConfig": "stages.config.heads",
    "LoadedRun": "pipeline.export.loaded_run",
    "Preprocessing": "pipeline.library.backbones",
    "TransferClassifier": "pipeline.library.estimators",
    "TransferRegressor": "pipeline.library.regressor",
    "TransferSegmenter": "pipeline.library.segmenter",
    "backbone_from_module": "pipeline.library.backbones",
    "compare": "pipeline.library.functions",
    "features": "pipeline.library.functions",
    "finetune": "pipeline.library.finetuning",
    "load": "pipeline.export.loaded_run",
}

__all__ = [
    "CachedDataset",
    "DataConfig",
    "FeatureConfig",
    "FeatureExtractor",
    "FinetuneConfig",
    "FinetunedNetwork",
    "HeadConfig",
    "LoadedRun",
    "Preprocessing",
    "TransferClassifier",
    "TransferRegressor",
    "TransferSegmenter",
    "backbone_from_module",
    "compare",
    "features",
    "finetune",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        # Python names the nearest of `dir` where it knows what the name was asked of
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    require_own_packages()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])

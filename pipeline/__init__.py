"""What a person touches: commands, configuration, the comparison, the report, predict.

The Python API is the commands themselves, with the option classes of the stages::

    from pipeline import DataConfig, FeatureConfig, HeadConfig, extract, train
    photos, features = DataConfig("photos/"), FeatureConfig(backbone="resnet18")
    extract(data=photos, features=features)
    results = train(data=photos, features=features, head=HeadConfig(("logistic", "mlp")), out=Path("runs/photos"))

Names are loaded when first used, so that importing the package, and ``--help``, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cli.compare import compare as compare
    from pipeline.cli.contact_sheet import contact_sheet as contact_sheet
    from pipeline.cli.extract import extract as extract
    from pipeline.cli.finetune import finetune as finetune
    from pipeline.cli.inspect import inspect as inspect
    from pipeline.cli.learning_curve import learning_curve as learning_curve
    from pipeline.cli.list_cuts import list_cuts as list_cuts
    from pipeline.cli.lr_find import lr_find as lr_find
    from pipeline.cli.predict import predict as predict
    from pipeline.cli.probe_layers import probe_layers as probe_layers
    from pipeline.cli.run import run as run
    from pipeline.cli.train import train as train
    from stages.config.data import DataConfig as DataConfig
    from stages.config.features import FeatureConfig as FeatureConfig
    from stages.config.finetune import FinetuneConfig as FinetuneConfig
    from stages.config.heads import HeadConfig as HeadConfig

COMMANDS = (
    *("run", "list-cuts", "probe-layers", "inspect", "learning-curve", "contact-sheet"),
    *("extract", "train", "lr-find", "finetune", "compare", "predict"),
)
"""As they are typed; the function of a command, and its module, have an underscore where it has a hyphen."""

_OPTIONS = {
    "DataConfig": "stages.config.data",
    "FeatureConfig": "stages.config.features",
    "HeadConfig": "stages.config.heads",
    "FinetuneConfig": "stages.config.finetune",
}

__all__ = [
    "DataConfig",
    "FeatureConfig",
    "FinetuneConfig",
    "HeadConfig",
    "compare",
    "contact_sheet",
    "extract",
    "finetune",
    "inspect",
    "learning_curve",
    "list_cuts",
    "lr_find",
    "predict",
    "probe_layers",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name.replace("_", "-") in COMMANDS:
        return getattr(import_module(f"pipeline.cli.{name}"), name)
    if name in _OPTIONS:
        return getattr(import_module(_OPTIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a person touches: commands, configuration, the comparison, the report, predict.

The Python API is the commands themselves, with the option classes of the stages::

    from pipeline import Data, Features, Head, extract, train
    photos, features = Data("photos/"), Features(backbone="resnet18")
    extract(data=photos, features=features)
    results = train(data=photos, features=features, head=Head(("logistic", "mlp")), out=Path("runs/photos"))

Names are loaded when first used, so that importing the package, and ``--help``, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.commands.compare import compare as compare
    from pipeline.commands.contact_sheet import contact_sheet as contact_sheet
    from pipeline.commands.extract import extract as extract
    from pipeline.commands.find_rate import find_rate as find_rate
    from pipeline.commands.finetune import finetune as finetune
    from pipeline.commands.inspect import inspect as inspect
    from pipeline.commands.layers import layers as layers
    from pipeline.commands.learning_curve import learning_curve as learning_curve
    from pipeline.commands.predict import predict as predict
    from pipeline.commands.probe import probe as probe
    from pipeline.commands.run import run as run
    from pipeline.commands.train import train as train
    from stages.options import Data as Data
    from stages.options import Features as Features
    from stages.options import Finetune as Finetune
    from stages.options import Head as Head

COMMANDS = (
    *("run", "layers", "probe", "inspect", "learning-curve", "contact-sheet"),
    *("extract", "train", "find-rate", "finetune", "compare", "predict"),
)
"""As they are typed; the function of a command, and its module, have an underscore where it has a hyphen."""

_OPTIONS = ("Data", "Features", "Head", "Finetune")

__all__ = [
    "Data",
    "Features",
    "Finetune",
    "Head",
    "compare",
    "contact_sheet",
    "extract",
    "find_rate",
    "finetune",
    "inspect",
    "layers",
    "learning_curve",
    "predict",
    "probe",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name.replace("_", "-") in COMMANDS:
        return getattr(import_module(f"pipeline.commands.{name}"), name)
    if name in _OPTIONS:
        return getattr(import_module("stages.options"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

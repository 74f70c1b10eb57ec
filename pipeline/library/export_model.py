"""A trained method as one file, without the run that it came from.

A format is a function under :func:`register_model_format`, here or in a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.atomic_write import atomic_path
from cache.errors import UsageError
from pipeline.experiment.model_store import ModelCard, open_model, read_columns
from pipeline.options.export_formats import MODEL_FORMATS, ExportFormat, writer_of
from stages.extraction.extractor import Extractor
from stages.finetuning.transfer_model import TransferModel
from stages.network.heads.serialization import save_tensors


@dataclass(frozen=True)
class TrainedModel:
    """A trained method, ready for images.

    Attributes
    ----------
    card : ModelCard
        What it stands on.
    extractor : Extractor
        Its network, with the preprocessing.
    transfer : TransferModel
        What was trained, and where it joins the network.
    """

    card: ModelCard
    extractor: Extractor
    transfer: TransferModel


WriteModel = Callable[[TrainedModel, Path], None]
"""Writes a model into a file that is given its name when it is whole."""


def register_model_format(
    ending: str, *, needs: str = "", install: str = "", help_text: str = ""
) -> Callable[[WriteModel], WriteModel]:
    """Make a function what writes models into files whose names end so.

    Parameters
    ----------
    ending
        With its point, in small letters: ``.safetensors``.
    needs, install
        As in :class:`~pipeline.options.export_formats.ExportFormat`; literals in our own files.
    help_text
        What it is, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered for the ending.
    """
    return MODEL_FORMATS.decorator(ExportFormat(ending, needs, install, help_text=help_text))


def export_model(directory: Path, path: Path, device: str = "auto") -> TrainedModel:
    """Write a trained method into one file; return what was written.

    ``.safetensors``
        Tensors `head.*` and, after fine-tuning, `top.*`, by their names in the modules; in the metadata, as JSON,
        `model` (what it stands on), `head` (what it takes to build the head again) and `preprocessing` (size, crop and
        colors of the images it takes).

    Parameters
    ----------
    directory : Path
        Of the method, in a run.
    path : Path
        Its ending names the format. It appears when all is written.
    device : str
        Where the model is opened.

    Raises
    ------
    UsageError
        If the format is not known, or needs a package that is not there, or the method takes more than images.
    DataError
        If the directory holds no complete model.
    WeightsError
        If the weights of its network are no longer those it was trained on.
    CacheError, OSError
        If the file cannot be written.
    """
    write: WriteModel = writer_of(MODEL_FORMATS, path)
    if read_columns(directory) is not None:
        raise UsageError(
            f"{directory} takes columns of a table beside images, which one file does not hold: export a method on the "
            "images alone"
        )
    model = TrainedModel(*open_model(directory, device))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        write(model, temporary)
    return model


@register_model_format(".safetensors")
def write_safetensors(model: TrainedModel, path: Path) -> None:
    """Tensors of the head and of what was fine-tuned, with the model card as metadata."""
    head = model.transfer.model.head
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {f"top.{name}": tensor for name, tensor in model.transfer.without_auxiliary_heads().items()}
    preprocessing = model.extractor.backbone.preprocessing.to_json()
    metadata = {
        "model": json.dumps(asdict(model.card)),
        "head": json.dumps(head.config),
        "preprocessing": json.dumps(preprocessing),
    }
    save_tensors(path, tensors, metadata)

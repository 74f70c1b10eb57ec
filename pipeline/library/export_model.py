"""A trained method as one file, without the run that it came from.

A format is a function under :func:`register_model_format`, here or in a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from cache.atomic_write import atomic_path
from pipeline.evaluation.decision import Decision, class_names_of
from pipeline.experiment.models.mixture_model import Network, open_networks
from pipeline.experiment.models.model_card import ModelCard
from pipeline.experiment.prediction.classify_images import decision_of
from pipeline.experiment.prediction.prediction import SavedMethod
from pipeline.options.export_formats import MODEL_FORMATS, ExportFormat, writer_of
from stages.columns.table_encoder import TableEncoder
from stages.config.features import PrecisionChoice
from stages.extraction.extractor import Extractor
from stages.finetuning.transfer_model import TransferModel
from stages.network.backbones.base import Backbone
from stages.network.heads.serialization import save_tensors
from stages.tasks.base import Task


@dataclass(frozen=True)
class TrainedModel:
    """A trained method, ready for images.

    Attributes
    ----------
    method : SavedMethod
        What its folder says of it.
    networks : tuple of Network
        What answers: one, or those of a mean over several, each with its share. They compute in float32, whatever the
        features that were trained on are of.
    decision : Decision
        How its run reads probabilities.
    """

    method: SavedMethod
    networks: tuple[Network, ...]
    decision: Decision

    @property
    def directory(self) -> Path:
        """Where it lies in its run."""
        return self.method.directory

    @property
    def card(self) -> ModelCard:
        """What it stands on."""
        return self.method.card

    @property
    def task(self) -> Task:
        """What it predicts, as it was tested."""
        return self.method.task

    @property
    def columns(self) -> TableEncoder | None:
        """What makes numbers of the columns of a table that it takes."""
        return self.method.columns

    @property
    def extractor(self) -> Extractor:
        """Its network, with the preprocessing; the first of several."""
        return self.networks[0].extractor

    @property
    def transfer(self) -> TransferModel:
        """What was trained, and where it joins the network; of the first of several."""
        return self.networks[0].upper

    @property
    def takes_images(self) -> bool:
        """Whether it opens images at all."""
        return self.method.takes_images

    @property
    def takes_samples(self) -> bool:
        """Whether what is predicted for has several images."""
        return self.card.samples is not None and self.takes_images


def open_trained(
    directory: Path,
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    precision: PrecisionChoice | None = "fp32",
) -> TrainedModel:
    """Open a trained method to be taken away.

    Parameters
    ----------
    directory : Path
        Of the method, in a run.
    device : str
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.
    precision : str, optional
        Arithmetic of the frozen part: what leaves computes in float32; None is that of the features it was trained on.

    Raises
    ------
    UsageError, DataError, WeightsError
        As `open_networks`.
    """
    method = SavedMethod.read(directory)
    networks = open_networks(directory, device, backbone, precision=precision)
    return TrainedModel(method, tuple(networks), decision_of(directory))


RunFile = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
"""Runs what was written: the inputs of one batch, in the order of the file -> its outputs."""

WriteModel = Callable[[TrainedModel, Path], "RunFile | None"]
"""Writes a model into a file that is given its name when it is whole; returns what runs it, where it can be run."""


def register_model_format(
    ending: str, *, called: str = "", needs: str = "", install: str = "", help_text: str = ""
) -> Callable[[WriteModel], WriteModel]:
    """Make a function what writes models into files whose names end so.

    Parameters
    ----------
    ending
        With its point, in small letters: ``.safetensors``.
    called
        What the option `format` calls it; by default the ending without its point.
    needs, install
        As in :class:`~pipeline.options.export_formats.ExportFormat`; literals in our own files.
    help_text
        What it is, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered for the ending.
    """
    return MODEL_FORMATS.decorator(ExportFormat(ending, needs, install, called, help_text=help_text))


def export_model(
    directory: Path,
    path: Path,
    device: str = "cpu",
    backbone: nn.Module | Backbone | None = None,
    *,
    check: Callable[[TrainedModel, RunFile | None], None] | None = None,
) -> TrainedModel:
    """Write a trained method into one file; return what was written.

    ``.safetensors``
        Tensors `head.*` and, after fine-tuning, `top.*`, by their names in the modules; in the metadata, as JSON,
        `model` (what it stands on), `head` (what it takes to build the head again), `preprocessing` (size, crop and
        colors of the images it takes) and, where it takes columns of a table, `columns` (what makes numbers of them).
        The network below is loaded from where it came from. Of a mean over several networks each has its own of all
        these, as `networks.0.head.*` and so on; `shares` says how much each counts.
    ``.onnx``
        All of it, from pixels to answers (:mod:`pipeline.export.onnx_file`).
    ``.pt2``
        The same as a program of torch (:mod:`pipeline.export.torch_program`).

    Parameters
    ----------
    directory : Path
        Of the method, in a run.
    path : Path
        Its ending names the format. It appears when all is written.
    device : str
        Where the model is opened; programs are traced on the processor.
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.
    check : callable, optional
        Is given the model and what runs the file before that has its name; what it raises leaves no file.

    Raises
    ------
    UsageError
        If the format is not known, needs a package that is not there, or cannot hold the method.
    DataError
        If the directory holds no complete model.
    WeightsError
        If the weights of its network are no longer those it was trained on.
    CacheError, OSError
        If the file cannot be written.
    """
    write: WriteModel = writer_of(MODEL_FORMATS, path)
    model = open_trained(directory, device, backbone)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        run_file = write(model, temporary)
        if check is not None:
            check(model, run_file)
    return model


def describe_model(model: TrainedModel) -> dict[str, str]:
    """Return what a file says of the model in it, as JSON: names, thresholds, temperature, fingerprints.

    ``task``
        What it predicts: names of classes, thresholds of labels, targets with mean and scale.
    ``decision``
        `temperature` that logits were divided by (in what answers: it is done already), `threshold` from which on
        `class` is predicted, of two, and the `least` probability of a class that is possible; null where there is none.
    ``columns``
        What makes numbers of the columns that it takes, where it takes any.
    ``method``, ``fingerprint``, ``weights``
        Which method of which seed; digests of the features it was trained on and of its network.
    """
    card, threshold = model.card, model.decision.threshold
    names = class_names_of(model.task)
    decision = {
        "temperature": model.decision.temperature,
        "threshold": None if threshold is None else threshold.value,
        "class": None if threshold is None else names[threshold.positive],
        "least": model.decision.least,
    }
    described: dict[str, Any] = {
        "task": model.task.to_json(),
        "class_names": list(names),
        "decision": decision,
        "method": {"folder": model.directory.name, "name": card.name, "seed": card.seed},
        "fingerprint": card.features_fingerprint,
        "weights": card.weights_digest,
        "cutonce": version("cutonce"),
    }
    if model.columns is not None:
        described["columns"] = [encoder.to_json() for encoder in model.columns.encoders]
    return {name: json.dumps(value) for name, value in described.items()}


@register_model_format(".safetensors", called="safetensors")
def write_safetensors(model: TrainedModel, path: Path) -> None:
    """Tensors of the head and of what was fine-tuned, with the model card as metadata."""
    tensors: dict[str, Tensor] = {}
    metadata = describe_model(model)
    for number, network in enumerate(model.networks):
        prefix = "" if len(model.networks) == 1 else f"networks.{number}."
        head = network.upper.model.head
        of_head, of_top = head.state_dict(), network.upper.without_auxiliary_heads()
        tensors |= {f"{prefix}head.{name}": tensor for name, tensor in of_head.items()}
        tensors |= {f"{prefix}top.{name}": tensor for name, tensor in of_top.items()}
        metadata |= {
            f"{prefix}model": json.dumps(asdict(network.recipe)),
            f"{prefix}head": json.dumps(head.config),
            f"{prefix}preprocessing": json.dumps(network.extractor.backbone.preprocessing.to_json()),
        }
    if len(model.networks) > 1:
        metadata["shares"] = json.dumps([network.share for network in model.networks])
    save_tensors(path, tensors, metadata)

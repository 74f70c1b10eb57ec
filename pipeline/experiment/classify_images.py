"""New images through a trained method: find the images, choose the model, name the classes."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cache.atomic_write import atomic_path
from cache.errors import DataError, UsageError, suggestion
from pipeline.evaluation.results import Result
from pipeline.experiment.model_store import open_model
from pipeline.run_layout import MODEL_CARD, files_of_methods, seed_of
from stages.data.sources.folder import IMAGE_EXTENSIONS
from stages.finetuning.predict_images import iter_predictions
from stages.network.backbones.base import Backbone
from stages.tasks.single_label import SingleLabel


@dataclass(frozen=True)
class Prediction:
    """One image with its most probable class and the probability of every class."""

    location: str
    label: str
    probabilities: dict[str, float]


def choose_model(run: Path, method: str | None, seed: int | None) -> Path:
    """Return the model directory of a run: as asked, or the method that validated best, of its first seed.

    Raises
    ------
    UsageError
        If the run has no such method or seed; names those it has.
    DataError
        If the run holds no trained method.
    """
    models = [path.parent for path in files_of_methods(run, MODEL_CARD)]
    if not models:
        raise DataError(f"{run} holds no trained method; `run`, `train` or `finetune` with `out` {run} makes one")
    seeds = sorted({seed_of(model.parent) for model in models})
    if seed is not None and seed not in seeds:
        raise UsageError(f"`seed` {seed}: {run} has the seeds {', '.join(map(str, seeds))}")
    models = [model for model in models if seed_of(model.parent) == (seeds[0] if seed is None else seed)]
    if method is None:
        results = {model: Result.load(model) for model in models}
        sign = 1 if results[models[0]].metric.higher_is_better else -1
        return max(models, key=lambda model: sign * results[model].val[results[model].metric.name])
    chosen = [model for model in models if model.name == method]
    if not chosen:
        names = [model.name for model in models]
        raise UsageError(f"`method` {method}: {run} has {', '.join(names)}.{suggestion(method, names)}")
    return chosen[0]


def predict_images(
    model: Path, images: Sequence[Path], device: str = "auto", backbone: nn.Module | Backbone | None = None
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return the classified images, and those that could not be read with the reason.

    Parameters
    ----------
    model : Path
        The folder of a trained method: ``RUN/seed-0/linear-logistic``.
    images : sequence of Path
        Files, and folders that are searched.
    device : str
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.

    Raises
    ------
    UsageError
        If a path does not exist, or a network that was handed in is missing or another one.
    DataError
        If there is no readable image.
    """
    locations = [str(path) for path in find_images(images)]
    recipe, extractor, upper = open_model(model, device, backbone)
    classified: list[Prediction] = []
    unreadable: list[tuple[str, str]] = []
    task = SingleLabel(recipe.class_names)
    for some in iter_predictions(extractor, upper, task, locations, recipe.tta):
        unreadable += [(locations[index], reason) for index, reason in some.failures]
        for index, row in zip(some.indices, some.probabilities.tolist(), strict=True):
            probabilities = dict(zip(recipe.class_names, row, strict=True))
            label = max(probabilities, key=probabilities.__getitem__)
            classified.append(Prediction(locations[index], label, probabilities))
    if not classified:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    return classified, unreadable


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files given, and the images inside the folders given, in the order of their names.

    Raises
    ------
    UsageError
        If nothing is given, or a path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
            found += sorted(one for one in inside if one.suffix.lower() in IMAGE_EXTENSIONS)
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: there is no such image or folder")
    if not found:
        raise UsageError("no image to classify: give image files, or folders that hold some")
    return found


def write_csv(path: Path, classified: Sequence[Prediction]) -> None:
    """Write path, class and the probability of every class; one row per image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "class", *(f"probability_{name}" for name in classified[0].probabilities)])
        for one in classified:
            writer.writerow([one.location, one.label, *(f"{value:.6f}" for value in one.probabilities.values())])

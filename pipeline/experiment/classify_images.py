"""New images through a trained method: find the images, choose the model, say what it predicts."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cache.atomic_write import atomic_path
from cache.errors import DataError, UsageError, listed, suggestion
from pipeline.evaluation.comparison import choose_result
from pipeline.evaluation.decision import Decision, class_names_of, decide
from pipeline.evaluation.results import Result, distinct_names, read_json
from pipeline.experiment.find_samples import NewSample, find_samples
from pipeline.experiment.mixture_model import Network, mean_batches, open_networks, read_members
from pipeline.experiment.model_store import open_model, read_columns, read_recipe, read_unlike, task_of_model
from pipeline.experiment.predict_from_cache import find_cached
from pipeline.experiment.predict_masks import MaskOutput, colors_of_run, predict_masks
from pipeline.experiment.predict_with_columns import predict_samples_with_columns, predict_with_columns
from pipeline.options.toml_file import read_configuration
from pipeline.run_layout import CONFIGURATION, MODEL_CARD, REPORT, RESULT, RESULTS, files_of_methods, run_of, seed_of
from stages.config.bounds import is_share, require
from stages.config.goals import goal_of
from stages.data.sources.csv_file import is_table, read_image_table
from stages.data.sources.folder_tree import FolderNotes, images_below
from stages.data.sources.tiles import tiling_of
from stages.finetuning.predict_images import PredictedBatch, iter_predictions, iter_sample_predictions
from stages.inspection.unlike import UnlikeDetector
from stages.network.backbones.base import Backbone
from stages.tasks.base import Task, task_from_json
from stages.tasks.dense import Dense

COLUMNS_ALONE = "columns"
"""The method of transfer that opens no image."""

UNLIKE_COLUMNS = ("unlike", "unlike_score")

POSSIBLE = "possible"
"""The column of the classes that are possible."""

SEPARATOR = "|"
"""Between these."""

STANDARD_INPUT = "-"

LISTS = (".txt", ".lst")
"""How files end that have a path in each line."""

NO_CACHE = Path()
"""In place of a folder of caches: features are computed, whatever is kept of them."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one image, and what its table says of it besides.

    Attributes
    ----------
    location : str
    words : str
        The prediction in a line.
    cells : mapping of str to str
        All that the task says of it, by the names of columns: a class and the probability of every class, say.
    activated : float32 [out_features]
        What the task makes of the network's output: probabilities, or values; of masks the share of each class.
    extra : mapping of str to str
    unlike : float, optional
        How far it is from the training images, as a multiple of the level that hardly any of the held-out images is
        beyond: above 1 it is unlike them, and what is predicted says little. None where the model cannot tell.
    """

    location: str
    words: str
    cells: Mapping[str, str]
    activated: NDArray[np.float32]
    extra: Mapping[str, str] = field(default_factory=dict)
    unlike: float | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether it is known to be unlike the training images."""
        return self.unlike is not None and self.unlike > 1


class ModelChoice(NamedTuple):
    """A trained method, and why it is the one."""

    directory: Path
    reason: str


def choose_model(run: Path, method: str | None, seed: int | None) -> ModelChoice:
    """Return a trained method of a run: as asked, or the one that the page of the run says to take; of its first seed.

    A run without a page, or whose page is of a version that kept no such word, gives what a page would say.

    Raises
    ------
    UsageError
        If the run has no such method or seed, naming those it has, or its page says to take a method of another run.
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
    names = [model.name for model in models]
    if method is not None and method not in names:
        raise UsageError(f"`method` {method}: {run} has {', '.join(names)}.{suggestion(method, names)}")
    if method is not None:
        return ModelChoice(models[names.index(method)], "as `method` says")
    chosen = _chosen_on_page(run)
    if chosen in names:
        return ModelChoice(models[names.index(chosen)], f"which {run / REPORT} says to take")
    choice = choose_result([Result.load(model) for model in models])
    best = next(model for model in models if model == choice.chosen.results[0].directory)
    ranked_by = f"{'out-of-fold' if choice.cross_validated else 'validation'} {choice.chosen.metric.label}"
    return ModelChoice(best, f"the one to take by {ranked_by}; `compare` says more")


def _chosen_on_page(run: Path) -> str | None:
    """Return the folder's name of the method that the page of a run says to take; None where it has no word of it."""
    path = run / RESULTS
    chosen = read_json(path).get("chosen") if path.exists() else None
    if not isinstance(chosen, dict):
        return None
    run_of_chosen = Path(os.path.normpath(run / str(chosen["run"])))
    if run_of_chosen.resolve() != run.resolve():
        raise UsageError(
            f"{run / REPORT}, which compares several runs, says to take {chosen['folder']} of {run_of_chosen}: "
            "give that run, or say by `method` which one of this run you want"
        )
    return str(chosen["folder"])


def decision_of(
    model: Path, threshold_for: str | None = None, coverage: float | None = None, *, calibrate: bool | None = None
) -> Decision:
    """Return how the probabilities of a trained method are read: as asked, or as its run was configured.

    Raises
    ------
    UsageError, DataError
        As `decide`.
    """
    path = run_of(model) / CONFIGURATION
    configured = read_configuration(path) if path.exists() else {}
    goal = goal_of(threshold_for or configured.get("threshold_for"))
    coverage = configured.get("coverage") if coverage is None else coverage
    require("coverage", coverage, "between 0 and 1", is_share)
    calibrate = bool(configured.get("calibrate")) if calibrate is None else calibrate
    if goal is None and coverage is None and not calibrate:
        return Decision()
    return decide(Result.load(model), goal, coverage, calibrate=calibrate)


def mask_output(
    model: Path, folder: Path | None, table: Path | None, *, overlays: bool = True, probabilities: bool = False
) -> MaskOutput | None:
    """Return where a trained method's masks are written: as asked, or beside the table of its predictions, by its name.

    None where there are none, or nothing says where.

    Raises
    ------
    UsageError
        If masks or probabilities are asked for of a method that has none, or probabilities without a folder.
    """
    recipe = read_recipe(model)
    is_dense = recipe is not None and isinstance(task_from_json(recipe.task), Dense)
    if not is_dense and (folder is not None or probabilities):
        asked = "`probabilities`" if folder is None else f"`masks` {folder}"
        raise UsageError(f"{asked}: {model} says something of images as a whole, not of their pixels")
    if is_dense and folder is None and table is not None:
        folder = table.with_suffix("")
    if is_dense and folder is None and probabilities:
        raise UsageError("`probabilities` are files: say by `masks` FOLDER where they go")
    return MaskOutput(folder, overlays, probabilities) if is_dense and folder is not None else None


def predict_images(
    model: Path,
    images: Sequence[Path],
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    decision: Decision | None = None,
    masks: MaskOutput | None = None,
    cache: Path | None = None,
    use_cache: bool = True,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return the classified images, and those that could not be read with the reason.

    Parameters
    ----------
    model : Path
        The folder of a trained method: ``RUN/seed-0/linear-logistic``.
    images : sequence of Path
        Files, folders that are searched, and tables (CSV, TSV) that list images in the column path.
    device : str
    backbone : nn.Module or Backbone, optional
        The network it was trained on, where that was handed in from Python.
    decision : Decision, optional
        How probabilities are read; by default the most probable class is predicted.
    masks : MaskOutput, optional
        Where masks are written, of a method that gives a class for each pixel; what is said of an image are then the
        shares of the classes.
    cache : Path, optional
        The folder of caches (default: that of the features it was trained on). An image of which the features are
        there is neither decoded nor sent through the network, and where all are, no network is loaded.
    use_cache : bool
        Whether features in a cache are taken.

    Raises
    ------
    UsageError
        If a path does not exist, or a network that was handed in is missing or another one.
    DataError
        If there is no readable image, or the method takes columns of a table and there is none with them.
    """
    recipe = read_recipe(model)
    if recipe is not None and isinstance(task_from_json(recipe.task), Dense):
        return _predict_masks(model, find_images(images), device, backbone, decision, masks)
    if recipe is not None and recipe.samples is not None:
        return _predict_samples(model, find_samples(images, recipe.samples), device, backbone, decision)
    return predict_listing(model, find_images(images), device, backbone, decision, cache if use_cache else NO_CACHE)


def predict_listing(
    model: Path,
    listing: Sequence[tuple[str, dict[str, str]]],
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    decision: Decision | None = None,
    cache: Path | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return what `predict_images` does, of one image a sample, each with what its table says of it besides.

    Parameters
    ----------
    listing : sequence of (location, cells)
    cache : Path, optional
        As of `predict_images`; `NO_CACHE` where none is looked into.
    """
    locations = [location for location, _ in listing]
    columns, recipe, task = read_columns(model), read_recipe(model), task_of_model(model)
    cached = None
    if recipe is not None and recipe.method != COLUMNS_ALONE and cache != NO_CACHE and not read_members(model):
        cached = find_cached(model, recipe, locations, cache)
    done = {} if cached is None else {**cached.keys, **cached.unreadable}
    rest = [place for place in range(len(locations)) if place not in done]
    asked = [listing[place] for place in rest]

    def answers_of(network: Network) -> Iterator[PredictedBatch]:
        extractor, upper = network.extractor, network.upper
        if columns is not None:
            return predict_with_columns(extractor, upper, task, asked, columns)
        return iter_predictions(extractor, upper, task, [location for location, _ in asked], network.recipe.tta)

    batches: list[Iterator[tuple[PredictedBatch, Sequence[int]]]] = []
    if cached is not None:
        batches.append((batch, range(len(locations))) for batch in cached.answers(task, columns, listing))
    if rest:
        networks = open_networks(model, device, backbone, cache if cache != NO_CACHE else None)
        batches.append((batch, rest) for batch in mean_batches(networks, answers_of))
    detector = _detector_of(model)
    answers: dict[int, Prediction] = {}
    failures: dict[int, str] = {}
    for batch, places in chain.from_iterable(batches):
        failures |= {places[index]: reason for index, reason in batch.failures}
        for index, answer in zip(batch.indices, _answers(batch, task, detector, decision), strict=True):
            location, cells = listing[places[index]]
            answers[places[index]] = Prediction(location, extra=cells, **answer._asdict())
    unreadable = [(locations[place], failures[place]) for place in sorted(failures)]
    if not answers:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    if cached is not None and cached.keys:
        of_all = "" if len(cached.keys) == len(locations) else f" of {len(locations):,}"
        _LOG.info(f"features of {len(cached.keys):,}{of_all} images are from the cache")
    return [answers[place] for place in sorted(answers)], unreadable


def _predict_masks(
    model: Path,
    listing: Sequence[tuple[str, dict[str, str]]],
    device: str,
    backbone: nn.Module | Backbone | None,
    decision: Decision | None,
    output: MaskOutput | None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return what `predict_images` does, of a method that gives a class for each pixel."""
    if decision not in (None, Decision()):
        raise UsageError("`threshold_for`, `coverage` and `calibrate` are for images as a whole, not for their pixels")
    recipe, extractor, upper = open_model(model, device, backbone)
    task = task_from_json(recipe.task)
    assert isinstance(task, Dense)
    predicted: list[Prediction] = []
    unreadable: list[tuple[str, str]] = []
    locations = [location for location, _ in listing]
    colors = None if output is None else colors_of_run(model)
    detector, tiling = read_unlike(model), tiling_of(extractor.options)
    for index, answer in predict_masks(extractor, upper, task, locations, tiling, output, colors, detector):
        if isinstance(answer, str):
            unreadable.append((locations[index], answer))
        else:
            predicted.append(Prediction(locations[index], extra=listing[index][1], **answer._asdict()))
    if not predicted:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    return predicted, unreadable


def _predict_samples(
    model: Path,
    samples: Sequence[NewSample],
    device: str,
    backbone: nn.Module | Backbone | None,
    decision: Decision | None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return what `predict_images` does, of samples of several images."""
    networks, task = open_networks(model, device, backbone), task_of_model(model)
    locations = [location for sample in samples for location in sample.images if location is not None]
    predicted: list[Prediction] = []
    unreadable: list[tuple[str, str]] = []
    columns, detector = read_columns(model), _detector_of(model)

    def answers_of(network: Network) -> Iterator[PredictedBatch]:
        extractor, upper = network.extractor, network.upper
        if columns is not None:
            listing = [(sample.location, sample.images, sample.extra) for sample in samples]
            return predict_samples_with_columns(extractor, upper, task, listing, columns)
        images = [sample.images for sample in samples]
        return iter_sample_predictions(extractor, upper, task, images, network.recipe.tta)

    batches = mean_batches(networks, answers_of)
    for batch in batches:
        unreadable += [(locations[number], reason) for number, reason in batch.failures]
        for index, answer in zip(batch.indices, _answers(batch, task, detector, decision), strict=True):
            sample = samples[index]
            predicted.append(Prediction(sample.location, extra=sample.extra, **answer._asdict()))
    if not predicted:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    return predicted, unreadable


class _Answer(NamedTuple):
    """What is predicted for one image, by the names that `Prediction` has for it."""

    words: str
    cells: Mapping[str, str]
    activated: NDArray[np.float32]
    unlike: float | None


def _answers(
    batch: PredictedBatch, task: Task, detector: UnlikeDetector | None, decision: Decision | None
) -> Iterator[_Answer]:
    """Yield what is predicted for the images of a batch, and how unlike the training images each is."""
    scores: list[float | None] = [None] * len(batch.indices)
    if detector is not None and batch.vectors is not None and len(batch.indices):
        scores = detector.scores(batch.vectors).tolist()
    rows = batch.activated if decision is None else decision.calibrated(batch.activated).astype(np.float32, copy=False)
    for activated, score in zip(torch.from_numpy(rows), scores, strict=True):
        cells = dict(zip(task.predicted_columns, task.predicted_cells(activated), strict=True))
        words = task.predicted_words(activated)
        if decision is not None and decision != Decision():
            cells, words = _as_decided(decision, class_names_of(task), activated.numpy(), cells)
        yield _Answer(words, cells, activated.numpy(), score)


def _as_decided(
    decision: Decision, names: Sequence[str], probabilities: NDArray[np.float32], cells: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Return the cells and the words of one prediction by a threshold, and with the classes that are possible."""
    predicted = int(decision.predicted(probabilities[None])[0])
    decided, words = {**cells, "class": names[predicted]}, f"{names[predicted]}  {probabilities[predicted]:.3f}"
    if decision.least is None:
        return decided, words
    possible = [names[number] for number in np.flatnonzero(decision.possible(probabilities[None])[0]).tolist()]
    return {**decided, POSSIBLE: SEPARATOR.join(possible)}, f"{words}  possible: {', '.join(possible)}"


def _detector_of(model: Path) -> UnlikeDetector | None:
    """Return what tells images that are unlike the training images; None where the method has none, which is said."""
    detector, recipe = read_unlike(model), read_recipe(model)
    if detector is None and recipe is not None and recipe.method != COLUMNS_ALONE:
        _LOG.info(
            f"note: {model} was saved by a version that kept nothing to compare images with: none is marked as unlike "
            "the training images. Train it again with `overwrite` to have that"
        )
    return detector


def find_images(paths: Sequence[Path]) -> list[tuple[str, dict[str, str]]]:
    """Return where the images are, and by the names of its columns what the table that lists one says of it besides.

    These are the files given, the images inside the folders given, in the order of their names, the rows of the
    tables given, and what is named line by line, by lists (.txt; relative to where they are) or, for ``-``, by standard
    input.

    Raises
    ------
    UsageError
        If nothing is given, or a path does not exist.
    DataError
        If a table cannot be used.
    """
    listing: list[tuple[str, dict[str, str]]] = []
    for path in _listed(paths):
        if path.is_dir():
            listing += [(str(image), {}) for image in sorted(map(Path, images_below(path, FolderNotes(path))))]
        elif is_table(path):
            images, notes = read_image_table(path)
            listing += images
            for note in notes:
                _LOG.info(f"note: {note}")
        elif path.exists():
            listing.append((str(path), {}))
        else:
            raise UsageError(f"{path}: there is no such image or folder")
    if not listing:
        raise UsageError("no image to classify: give image files, folders that hold some, or tables that list some")
    return listing


def _listed(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the paths, in place of a list, or of a hyphen for standard input, what stands in its lines."""
    for path in paths:
        if str(path) == STANDARD_INPUT:
            yield from _lines(sys.stdin.read())
        elif path.suffix.lower() in LISTS and path.is_file():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            yield from (path.parent / line for line in _lines(text))
        else:
            yield path


def _lines(text: str) -> list[Path]:
    return [Path(line.strip()) for line in text.splitlines() if line.strip()]


def format_predictions(
    model: Path, reason: str, predictions: Sequence[Prediction], *, printed: bool
) -> tuple[str, list[str], list[str]]:
    """Return what is said of predictions: a heading, a line for each if they are `printed`, and what to beware of."""
    recipe = read_recipe(model)
    of_what = "samples" if recipe is not None and recipe.samples is not None else "images"
    heading = f"{model.name} of {model.parent}, {reason}: {len(predictions)} {of_what}{_cost_words(model)}"
    lines = [
        f"{prediction.location}  {prediction.words}{'  (unlike the training images)' if prediction.is_unlike else ''}"
        for prediction in predictions
    ]
    unlike = sum(prediction.is_unlike for prediction in predictions)
    warning = (
        f"{unlike} of {len(predictions)} {of_what} are unlike those that the model was trained on: what it predicts of "
        "them, however sure, says little"
    )
    return heading, lines if printed else [], [warning] if unlike else []


def _cost_words(model: Path) -> str:
    """Return what an image costs with a method, as it was measured when that was tested, and on which networks."""
    members = read_members(model)
    networks = dict.fromkeys(f"{member.backbone} at {member.image_size} px" for member in members)
    words = f"; a mean of {len(members)} members on {listed(list(networks))}" if members else ""
    seconds = Result.load(model).prediction_seconds_per_image if (model / RESULT).exists() else None
    return words if seconds is None else f"{words}; {1000 * seconds:,.1f} ms an image where it was trained"


def write_csv(path: Path, classified: Sequence[Prediction]) -> None:
    """Write the path, what the task says (class and probability of every class, say), and the extra columns.

    Before these, where the model can tell, ``unlike``: yes for an image that is unlike the training images, and
    ``unlike_score``: how far it is from them, as a multiple of the level from which on it is.

    An extra column that is called as one of the others has ``extra_`` before its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        has_unlike = any(prediction.unlike is not None for prediction in classified)
        columns = ["path", *classified[0].cells, *UNLIKE_COLUMNS * has_unlike]
        extra = list(dict.fromkeys(name for prediction in classified for name in prediction.extra))
        writer.writerow([*columns, *distinct_names(extra, columns)])
        for prediction in classified:
            extra_cells = (prediction.extra.get(name, "") for name in extra)
            unlike = _unlike_cells(prediction) if has_unlike else ()
            writer.writerow([prediction.location, *prediction.cells.values(), *unlike, *extra_cells])


def _unlike_cells(prediction: Prediction) -> tuple[str, str]:
    if prediction.unlike is None:
        return "", ""
    return "yes" if prediction.is_unlike else "no", f"{prediction.unlike:.3f}"

"""New images through a trained method: find the images, choose the model, say what it predicts."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cache.atomic_write import atomic_path
from cache.errors import DataError, UsageError, alternatives, listed
from pipeline.evaluation.comparison import choose_result
from pipeline.evaluation.decision import Decision, decide
from pipeline.evaluation.method_folders import files_of_methods
from pipeline.evaluation.named_methods import folders_called
from pipeline.evaluation.results import Result, distinct_names, read_comparison
from pipeline.experiment.models.mixture_members import model_of_member, read_members
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.prediction.find_samples import find_samples
from pipeline.experiment.prediction.head_answers import encoded_columns, head_probabilities
from pipeline.experiment.prediction.predict_from_cache import find_cached
from pipeline.experiment.prediction.prediction import Prediction, SavedMethod, answers_of_batch
from pipeline.options.toml_file import read_configuration
from pipeline.run_layout import (
    CONFIGURATION,
    HEAD,
    MODEL_CARD,
    REPORT,
    RESULT,
    RESULTS,
    part_of_run,
    run_of,
    seed_of,
)
from stages.config.bounds import is_share, require
from stages.config.features import PrecisionChoice
from stages.config.goals import goal_of
from stages.data.sources.csv_file import is_table, read_image_table
from stages.data.sources.folder_tree import FolderNotes, images_below
from stages.finetuning.predicted_batch import PredictedBatch
from stages.network.heads.serialization import load_head
from stages.tasks.base import task_from_json
from stages.tasks.dense import Dense

if TYPE_CHECKING:
    from torch import nn

    from pipeline.experiment.models.mixture_model import Network
    from pipeline.experiment.prediction.predict_masks import MaskOutput
    from stages.network.backbones.base import Backbone

UNLIKE_COLUMNS = ("unlike", "unlike_score")


STANDARD_INPUT = "-"

LISTS = (".txt", ".lst")
"""How files end that have a path in each line."""

NO_CACHE = Path()
"""In place of a folder of caches: features are computed, whatever is kept of them."""

_LOG = logging.getLogger("cutonce")


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
        If the run has no such method or seed, naming those it has, its page says to take a method of another run, or
        `run` is a part of one.
    DataError
        If the run holds no trained method.
    """
    models = [path.parent for path in files_of_methods(run, MODEL_CARD)]
    if not models and (part := part_of_run(run)):
        raise UsageError(f"{part}, and by `seed` and `method` which of its models")
    if not models:
        raise DataError(f"{run} holds no trained method; `run`, `train` or `finetune` with `out` {run} makes one")
    seeds = sorted({seed_of(model.parent) for model in models})
    if seed is not None and seed not in seeds:
        raise UsageError(f"`seed` {seed}: {run} has the seeds {', '.join(map(str, seeds))}")
    models = [model for model in models if seed_of(model.parent) == (seeds[0] if seed is None else seed)]
    names = [model.name for model in models]
    if method is not None:
        called = folders_called(models, method)
        if not called:
            raise UsageError(f"`method` {method}: {run} has no such method.{alternatives(method, names)}")
        if len(called) > 1:
            raise UsageError(f"`method` {method}: give one of {', '.join(model.name for model in called)}")
        return ModelChoice(called[0], "as `method` says")
    chosen = _chosen_on_page(run)
    if chosen in names:
        said_in = run / (REPORT if (run / REPORT).exists() else RESULTS)  # a search that was killed has no page yet
        return ModelChoice(models[names.index(chosen)], f"which {said_in} says to take")
    choice = choose_result([Result.load(model) for model in models])
    best = next(model for model in models if model == choice.chosen.results[0].directory)
    ranked_by = f"{'out-of-fold' if choice.cross_validated else 'validation'} {choice.chosen.metric.label}"
    return ModelChoice(best, f"the one to take by {ranked_by}; `compare` says more")


def _chosen_on_page(run: Path) -> str | None:
    """Return the folder's name of the method that the page of a run says to take; None where it has no word of it."""
    chosen = read_comparison(run).get("chosen")
    if not isinstance(chosen, dict):
        return None
    run_of_chosen = Path(os.path.normpath(run / str(chosen["run"])))
    if run_of_chosen.resolve() != run.resolve():
        raise UsageError(
            f"{run / REPORT}, which compares several runs, says to take {chosen['folder']} of {run_of_chosen}: "
            f"give that run, or say by `method` which one of this run you want; `compare` {run} makes its own page anew"
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
        If masks or probabilities are asked for of a method that has none, or probabilities without a folder; or if the
        folder holds what no prediction wrote.
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
    if not is_dense or folder is None:
        return None
    from pipeline.experiment.prediction.mask_files import require_own_folder
    from pipeline.experiment.prediction.predict_masks import MaskOutput  # which imports what computes features

    require_own_folder(folder)
    return MaskOutput(folder, overlays, probabilities)


def predict_images(
    model: Path,
    images: Sequence[Path],
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    decision: Decision | None = None,
    masks: MaskOutput | None = None,
    cache: Path | None = None,
    use_cache: bool = True,
    precision: PrecisionChoice | None = None,
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
    precision : str, optional
        In which the frozen part computes (default: as it did for the training); features of another are not taken.

    Raises
    ------
    UsageError
        If a path does not exist, or a network that was handed in is missing or another one.
    DataError
        If there is no readable image, or the method takes columns of a table and there is none with them.
    """
    method = SavedMethod.read(model)
    if method.takes_images and (isinstance(method.task, Dense) or method.card.samples is not None):
        # what computes features takes longer to import than answers from cached ones take
        from pipeline.experiment.models.mixture_model import open_networks
        from pipeline.experiment.prediction.predict_by_network import predict_samples, predict_with_masks

        if isinstance(method.task, Dense):
            listing = find_images(images)
            networks = open_networks(model, device, backbone, precision=precision)
            return predict_with_masks(method, networks, listing, decision, masks)
        assert method.card.samples is not None
        samples = find_samples(images, method.card.samples)
        return predict_samples(method, open_networks(model, device, backbone, precision=precision), samples, decision)
    if method.card.samples is not None:
        listing = [(sample.location, dict(sample.extra)) for sample in find_samples(images, method.card.samples)]
    else:
        listing = find_images(images)
    use_cache = use_cache and precision in (None, method.card.features.get("precision"))
    return predict_listing(
        method, listing, device, backbone, decision, cache if use_cache else NO_CACHE, precision=precision
    )


def predict_listing(
    method: SavedMethod,
    listing: Sequence[tuple[str, dict[str, str]]],
    device: str = "auto",
    backbone: nn.Module | Backbone | None = None,
    decision: Decision | None = None,
    cache: Path | None = None,
    networks: Callable[[], Sequence[Network]] | None = None,
    precision: PrecisionChoice | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Return what `predict_images` does, of one image a sample, each with what its table says of it besides.

    Parameters
    ----------
    method : SavedMethod
    listing : sequence of (location, cells)
    cache : Path, optional
        As of `predict_images`; `NO_CACHE` where none is looked into.
    networks : callable, optional
        Gives the networks of the method, and is called where one of the images has to go through them (default: they
        are opened then).
    precision : str, optional
        As of `predict_images`, for networks that are opened here.
    """
    locations = [location for location, _ in listing]
    cached = None
    if method.takes_images and cache != NO_CACHE and not read_members(method.directory):
        cached = find_cached(method.directory, method.card, locations, cache)
    done = {} if cached is None else {**cached.keys, **cached.unreadable}
    rest = [place for place in range(len(locations)) if place not in done]
    batches: list[Iterable[tuple[PredictedBatch, Sequence[int]]]] = []
    if cached is not None:
        from_cache = cached.answers(method.task, method.columns, listing)
        batches.append((batch, range(len(locations))) for batch in from_cache)
    if rest and not method.takes_images:
        batches.append([(answers_of_columns(method, listing), rest)])
    elif rest:
        from pipeline.experiment.models.mixture_model import open_networks  # as above
        from pipeline.experiment.prediction.predict_by_network import batches_of_images

        if networks is None:
            root = cache if cache != NO_CACHE else None
            opened = open_networks(method.directory, device, backbone, root, precision)
        else:
            opened = [*networks()]
        computed = batches_of_images(method, opened, [listing[place] for place in rest])
        batches.append((batch, rest) for batch in computed)
    detector = method.detector()
    answers: dict[int, Prediction] = {}
    failures: dict[int, str] = {}
    for batch, places in chain.from_iterable(batches):
        failures |= {places[index]: reason for index, reason in batch.failures}
        for index, answer in zip(batch.indices, answers_of_batch(batch, method.task, detector, decision), strict=True):
            location, cells = listing[places[index]]
            answers[places[index]] = Prediction(location, extra=cells, **answer._asdict())
    unreadable = [(locations[place], failures[place]) for place in sorted(failures)]
    if not answers:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    if cached is not None and cached.keys:
        of_all = "" if len(cached.keys) == len(locations) else f" of {len(locations):,}"
        _LOG.info(f"features of {len(cached.keys):,}{of_all} images are from the cache")
    return [answers[place] for place in sorted(answers)], unreadable


def answers_of_columns(method: SavedMethod, listing: Sequence[tuple[str, Mapping[str, str]]]) -> PredictedBatch:
    """Return what a head on columns of a table alone answers for samples; it opens no image, and takes no network.

    Raises
    ------
    DataError
        If a sample comes without one of the columns, or a cell is no number where it must be one.
    """
    assert method.columns is not None
    values = encoded_columns(method.columns, [name for name, _ in listing], [cells for _, cells in listing])
    head = load_head(method.directory / HEAD)[0]
    return PredictedBatch([*range(len(listing))], head_probabilities(head, values, method.task), [])


def require_other_file(out: Path | None, paths: Sequence[Path]) -> None:
    """Refuse a file for the predictions that is one of those that are asked about, or a folder.

    Raises
    ------
    UsageError
    """
    if out is not None and out.is_dir():
        raise UsageError(f"`out` {out} is a folder: name the CSV file, as {out / 'predictions.csv'}")
    if out is not None and out.exists() and any(path.exists() and path.samefile(out) for path in paths):
        raise UsageError(f"`out` {out} is one of the files that are asked about, which it would replace")


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
        f"unlike the {of_what} that the model was trained on: {unlike} of {len(predictions)}; what it predicts of "
        "them, however sure, says little"
    )
    return heading, lines if printed else [], [warning] if unlike else []


def format_deviations(model: Path, precision: PrecisionChoice | None = None) -> list[str]:
    """Return how far the answers of a method move where features are computed as they are here, in sentences.

    Of a mixture, of each member. Nothing is said of the very way in which its features were computed, as long as that
    still gave the same where it was trained.
    """
    folders = [model_of_member(model, number) for number in range(len(read_members(model)))] or [model]
    said: dict[str, None] = {}
    for card in map(read_recipe, folders):
        if card is None or not card.features:
            continue
        trained = card.features.get("precision")
        here = precision or trained or "auto"
        measured = [deviation for deviation in card.deviations if here in ("auto", deviation.precision)]
        if not measured and precision not in (None, trained):
            said[f"it was trained in {trained or 'auto'}, and what {here} makes of its answers was not measured"] = None
        said |= dict.fromkeys(deviation.words for deviation in measured if deviation.is_worth_saying)
    return [*said]


def _cost_words(model: Path) -> str:
    """Return what an image costs with a method, as it was measured when that was tested, and on which networks."""
    members = read_members(model)
    networks = dict.fromkeys(f"{member.backbone} at {member.image_size} px" for member in members)
    words = (
        f"; a mean of {len(members)} member{'s' * (len(members) != 1)} on {listed(list(networks))}" if members else ""
    )
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

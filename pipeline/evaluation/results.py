"""Results on disk: what one method and seed reached on the test split, at what cost, with which predictions.

Writing, reading and checking only. What results say against each other is in ``pipeline.evaluation.comparison``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.atomic_write import write_atomically
from cache.errors import CutonceError, DataError, UsageError, listed
from pipeline import run_layout
from pipeline.evaluation.method_folders import files_of_methods, folder_identity
from pipeline.evaluation.method_table import as_frame, as_html, result_row
from pipeline.evaluation.methods import get_method, is_method
from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions, write_arrays
from stages.config.version_1 import METHOD_NAMES
from stages.tasks.base import Metric, Statistics, Task, evaluate, find_metric, task_from_json
from stages.tasks.intervals import Interval, interval
from stages.tasks.metrics import OLD_NAMES

FEATURES_READ, VIEWS_READ = "features_read", "views_read"
"""In the provenance of a result, where caches served that another machine or other options filled: which, in words."""

VERSION = 2
"""Of ``result.json``.

Version 1 had no task, which was `single_label`, named a method `frozen` that is `uncached` now, two metrics as
``stages.tasks.metrics.OLD_NAMES`` says, and the interval ``accuracy_ci95``.
"""


def evaluate_test(task: Task, statistics: Statistics, seed: int, units: ArrayLike | None = None) -> dict[str, Any]:
    """Return the ``test`` object of ``result.json``: every metric of the task, and how sure the primary one is.

    Parameters
    ----------
    task : Task
    statistics : array [n, ...]
        What the task keeps of each test sample.
    seed : int
        Seed of the bootstrap.
    units : array [n], optional
        `Predictions.units`: what is independent of each other, where samples have groups.

    Returns
    -------
    dict
        Each metric by its name, None where it is not defined for these samples; ``ci95``, the ends of the primary
        one's 95 % interval, null where it has none; ``ci95_method``, how it was made; ``groups``, how many there
        are, where samples have groups; ``confusion`` where the task has classes: true ones down, predicted ones across.

    Raises
    ------
    DataError
        If there is nothing to score.
    """
    scores = {name: None if math.isnan(score) else score for name, score in evaluate(task, statistics).items()}
    known = interval(task.metrics[task.primary], statistics, units, seed=seed)
    return {
        **scores,
        "ci95": [known.low, known.high],
        "ci95_method": known.method,
        **({} if known.groups is None else {"groups": known.groups}),
        **({} if (confusion := task.confusion(statistics)) is None else {"confusion": confusion.tolist()}),
    }


def fold_scores(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Return what ``test`` says of outer folds: of each its samples and their score, None where that is not defined."""
    if predictions.folds is None:
        return {}
    metric = find_metric(predictions.task)
    folds = {}
    for name in dict.fromkeys(predictions.folds[np.argsort(predictions.folds, kind="stable")].tolist()):
        statistics = predictions.statistics[predictions.folds == name]
        score = metric.score(statistics)
        folds[name] = {"samples": len(statistics), metric.name: None if math.isnan(score) else score}
    return {"folds": folds}


@dataclass(frozen=True)
class Result:
    """What one method reached with one seed; the attributes are those of ``result.json``, see ``docs/design.md``."""

    method: str
    name: str
    seed: int
    samples: dict[str, int]
    task: Task
    val: dict[str, float]
    test: dict[str, Any]
    seconds: float
    seconds_by_stage: dict[str, float]
    cpu_seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    backbone_forwards: int
    extraction_forwards: int
    backbone: str
    weights: str
    cut: str | None
    pool: str | None
    image_size: int | str | None
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """What it was made with, by the names of the options; empty in a file of a version that did not keep it."""
    history: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    cv: dict[str, Any] | None = None
    """What heads are ranked by, of `out_of_fold`: metric, mean, standard_error, folds, repeats; None where nothing was
    folded."""
    prediction_seconds_per_image: float | None = None
    """From the bytes of an image to its prediction, extraction and head, measured on those of the test; None in a file
    of a version that did not keep it."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Command, date, versions, commit of the code and digest of the data, see ``stages.runtime.provenance``; and what
    caches served that another machine or other options filled, where some did."""
    directory: Path | None = field(default=None, compare=False)
    """Where it was loaded from; not part of the file."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``result.json`` holds; numbers that are not finite become null."""
        stored = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "directory"}
        stored["task"] = self.task.to_json()
        stored["marginal_seconds"] = self.marginal_seconds
        if self.model_bytes is not None:
            stored["model_bytes"] = self.model_bytes
        return {"version": VERSION, **{name: to_json_value(value) for name, value in stored.items()}}

    def save(
        self,
        directory: Path,
        predictions: Predictions,
        *,
        validation: Predictions | None = None,
        out_of_fold: OutOfFoldPredictions | None = None,
    ) -> None:
        """Write all predictions and ``result.json`` into a folder that is being made (`method_folders.made_whole`).

        Parameters
        ----------
        directory : Path
        predictions : Predictions
            For the test split.
        validation : Predictions, optional
            For the validation split, by what was fitted to train alone.
        out_of_fold : OutOfFoldPredictions, optional
        """
        directory.mkdir(parents=True, exist_ok=True)
        if validation is not None:
            write_arrays(directory / run_layout.VALIDATION, validation.arrays())
        if out_of_fold is not None:
            write_arrays(directory / run_layout.OUT_OF_FOLD, out_of_fold.arrays())
        write_arrays(directory / run_layout.PREDICTIONS, predictions.arrays())
        write_atomically(directory / run_layout.RESULT, json_text(self.to_json()).encode())

    @property
    def marginal_seconds(self) -> float:
        """What it takes when the features are there, which all methods share: training and evaluation alone."""
        return sum(seconds for stage, seconds in self.seconds_by_stage.items() if stage != "extract")

    @property
    def model_bytes(self) -> int | None:
        """What is stored to predict with it, beside the network's own weights; None where no model is beside it.

        Of a mean over several networks, the models of all its members.
        """
        if self.directory is None:
            return None
        folders = [self.directory, *(self.directory / run_layout.MEMBER_MODELS).glob("*")]
        if not any((folder / run_layout.HEAD).exists() for folder in folders):
            return None
        paths = (folder / name for folder in folders for name in run_layout.MODEL_FILES)
        return sum(path.stat().st_size for path in paths if path.exists())

    def to_frame(self) -> Any:
        """Return the result as a ``pandas.DataFrame`` of one row.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        return as_frame([result_row(self)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return as_html([result_row(self)], self.metric, f"{self.method} {self.name}, seed {self.seed}")

    @property
    def metric(self) -> Metric:
        """The metric that ranks and is tested."""
        return self.task.metrics[self.task.primary]

    def by_metric(self, name: str) -> Result:
        """Return the result ranked and tested by the metric of that name; nothing is predicted anew.

        Raises
        ------
        UsageError
            If the task has no such metric.
        DataError
            If the metric is not defined for these samples, or it is not known what validation says of it: a result of
            before predictions for the validation split were kept.
        """
        metric = find_metric(self.task, name)
        if metric.name == self.task.primary:
            return self
        task = self.task.with_primary(metric.name)
        test = evaluate_test(task, self.predictions.statistics, self.seed, self.predictions.units)
        test |= fold_scores(self.predictions.of_task(task))
        test |= {name: self.test[name] for name in ("tested",) if name in self.test}
        if test[metric.name] is None:
            raise DataError(f"{metric.label} is not defined for the test samples of {self.directory}")
        val = {**self.val, metric.name: self._validation_score(metric)}
        return replace(self, task=task, val=val, test=test, selection=[])  # which was by the other one

    def on_rows(self, rows: NDArray[np.int64]) -> Result:
        """Return the result on some of its test samples; nothing is predicted anew."""
        predictions = self.predictions.select(rows)
        test = evaluate_test(self.task, predictions.statistics, self.seed, predictions.units) | fold_scores(predictions)
        kept = {name: self.test[name] for name in ("tested",) if name in self.test}
        selected = replace(self, test={**test, **kept}, samples={**self.samples, "test": len(predictions)})
        selected.__dict__["predictions"] = predictions  # which would else be read, all of them, from the file
        return selected

    def _validation_score(self, metric: Metric) -> float:
        if metric.name in self.val:
            return self.val[metric.name]
        if self.validation_predictions is not None:
            return metric.score(self.validation_predictions.statistics)
        raise DataError(
            f"{self.directory} was ranked by {self.metric.name} and does not say how it validates by {metric.name}: "
            f"train it again, or compare by `metric` {self.metric.name}"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; none where the task has no classes."""
        names: tuple[str, ...] = getattr(self.task, "class_names", ())
        return names

    @cached_property
    def interval(self) -> Interval:
        """The 95 % interval of the metric on the test split; made anew where a file of before does not say how."""
        low, high = (math.nan if end is None else float(end) for end in self.test["ci95"])
        if "ci95_method" in self.test:
            return Interval(low, high, self.test["ci95_method"], self.test.get("groups"))
        return interval(self.metric, self.predictions.statistics, self.predictions.units, seed=self.seed)

    def score(self, name: str) -> float:
        """Return a metric on the test split; from the predictions where the file, an older one, has no value."""
        value = self.test.get(name)
        return self.task.metrics[name].score(self.predictions.statistics) if value is None else float(value)

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions beside a loaded result.

        Raises
        ------
        DataError
            If they are missing, damaged, or those of another training.
        """
        path = self._beside(run_layout.PREDICTIONS)
        predictions = Predictions.load(path, self.task)
        if not math.isclose(self.metric.score(predictions.statistics), self.test[self.metric.name]):
            raise DataError(f"{path} does not belong to the result.json beside it; train this method again")
        return predictions

    @cached_property
    def validation_predictions(self) -> Predictions | None:
        """Predictions for the validation split, by what was fitted to train alone; None of a version that kept none.

        Raises
        ------
        DataError
            If they are damaged.
        """
        path = self._beside(run_layout.VALIDATION)
        return Predictions.load(path, self.task) if path.exists() else None

    @cached_property
    def out_of_fold(self) -> OutOfFoldPredictions | None:
        """Predictions for train and validation by models not fitted to them; None where nothing was folded.

        Raises
        ------
        DataError
            If they are damaged.
        """
        path = self._beside(run_layout.OUT_OF_FOLD)
        return OutOfFoldPredictions.load(path, self.task) if path.exists() else None

    def _beside(self, name: str) -> Path:
        if self.directory is None:
            raise ValueError("only a loaded result knows where its predictions are")
        return self.directory / name

    @classmethod
    def load(cls, directory: Path) -> Result:
        """Read a ``result.json``; names that this version does not know are passed over.

        Raises
        ------
        DataError
            If the file is missing, damaged, or lacks something.
        """
        path = directory / run_layout.RESULT
        stored = read_json(path)
        if stored.get("version", 1) == 1:
            stored = _from_version_1(stored)
        stored = {**dict.fromkeys(_OF_LATER_VERSIONS), "options": {}, "provenance": {}, **stored}
        unusable = [
            name for name in _STORED if name not in stored or not matches_annotation(stored[name], _STORED[name])
        ]
        if unusable:
            raise DataError(f"{path} has no usable {', '.join(unusable)}; train this method again")
        try:
            task = task_from_json(stored["task"])
        except CutonceError as error:
            raise DataError(f"{path} has no usable task: {error}") from error
        primary = task.primary
        history = [_by_metric_names(row, primary) for row in stored["history"]]
        result = cls(
            **{**{name: stored[name] for name in _STORED}, "task": task, "history": history}, directory=directory
        )
        unusable = ["method"] * (not is_method(result.method)) + ["val"] * (primary not in result.val)
        unusable += ["test"] * (not (matches_annotation(result.test.get(primary), float) and _is_interval(result.test)))
        if unusable:
            raise DataError(f"{path} has no usable {', '.join(unusable)}; train this method again")
        return result


_OF_LATER_VERSIONS = ("cv", "prediction_seconds_per_image")
"""What files of before there was such a thing lack."""


def _from_version_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result of version 1 by the names of today; what is not as it should be is left to be refused."""
    content = {**stored, "task": {"name": "single_label", "class_names": stored.get("class_names")}}
    if isinstance(stored.get("method"), str):
        content["method"] = METHOD_NAMES.get(stored["method"], stored["method"])
    if isinstance(stored.get("test"), dict):
        names = {**OLD_NAMES, "accuracy_ci95": "ci95"}
        content["test"] = {names.get(name, name): value for name, value in stored["test"].items()}
    return content


def _by_metric_names(row: Mapping[str, Any], primary: str) -> dict[str, Any]:
    """Return a row of a history with its scores called by their metric; before they were all called accuracy."""
    if f"val_{primary}" in row:
        return dict(row)
    names = {f"{part}_accuracy": f"{part}_{primary}" for part in ("train", "val")}
    return {names.get(name, name): value for name, value in row.items()}


def load_results(run_dirs: Sequence[Path]) -> list[Result]:
    """Read every finished result of the runs, with its predictions, in the order of run, seed, method and name.

    Raises
    ------
    DataError
        If a run is missing or has no results, a file of a result is missing or damaged, or a method is there twice.
    """
    return [result for run in run_dirs for result in _results_of(run)]


def on_shared_images(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Return results on the test images that all results of a seed have, with the same labels; in words, how many.

    Where a seed has none, or all of them, its results are returned as they are.
    """
    by_seed: dict[int, list[Counter[tuple[bytes, str]]]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(_test_images(result))
    shared = {seed: set.intersection(*(set(images) for images in tested)) for seed, tested in by_seed.items()}
    unlike = [
        seed for seed, tested in by_seed.items() if shared[seed] and any(images != tested[0] for images in tested)
    ]
    selected = []
    for result in results:
        if result.seed in unlike:
            labelled = zip(result.predictions.keys.tolist(), result.predictions.labels.tolist(), strict=True)
            rows = [row for row, image in enumerate(labelled) if image in shared[result.seed]]
            result = result.on_rows(np.array(rows, dtype=np.int64))
        selected.append(result)
    notes = []
    for seed in unlike:
        sizes = sorted({images.total() for images in by_seed[seed]})
        tested = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        notes.append(
            f"With seed {seed} the test images are not the same for all methods: compared on the {len(shared[seed]):,} "
            f"that all of them were tested on with the same label, of {tested}."
        )
    return selected, notes


def require_same_task(results: Sequence[Result]) -> None:
    """Refuse results of unlike tasks or classes; what predictions or training samples set of a task may differ.

    Raises
    ------
    DataError
        If tasks or classes differ anywhere; it says which.
    """
    for result in results:
        if result.task.uncalibrated().to_json() != results[0].task.uncalibrated().to_json():
            differ = _how_tasks_differ(result.task, results[0].task)
            raise DataError(
                f"{result.directory} and {results[0].directory} have {differ}; compare runs on the same data"
            )


def require_same_test_images(results: Sequence[Result]) -> None:
    """Refuse results that were not tested on the same images with the same labels.

    Raises
    ------
    DataError
        If tasks or classes differ anywhere, or test images differ within a seed; it says which.
    """
    require_same_task(results)
    first_of_seed: dict[int, Result] = {}
    for result in results:
        first_result = first_of_seed.setdefault(result.seed, result)
        images, first_images = _test_images(result), _test_images(first_result)
        only_in_result, only_in_first = images - first_images, first_images - images
        if only_in_result or only_in_first:
            raise DataError(
                f"with seed {result.seed}, {result.directory} and {first_result.directory} were not tested on the same "
                f"images: {_described(only_in_result, result)} only in the former, "
                f"{_described(only_in_first, first_result)} only "
                "in the latter; compare runs on the same data and splits"
            )


def write_results_json(
    run: Path,
    results: Sequence[Result],
    *,
    verdict: str,
    comparisons: Sequence[Mapping[str, Any]],
    configuration: Mapping[str, Any],
    environment: Mapping[str, Any],
    chosen: Mapping[str, str] | None = None,
) -> Path:
    """Write ``results.json``: every result, what they say against each other, and what is needed to repeat them.

    The result whose folder `chosen` names, of its first seed, says so of itself.
    """
    number = _number_of(chosen, run, results)
    content = {
        "verdict": verdict,
        "chosen": dict(chosen) if chosen is not None else None,
        "comparisons": list(comparisons),
        "results": [
            {**result.to_json(), **({"chosen": True} if place == number else {})}
            for place, result in enumerate(results)
        ],
        "extraction": _extractions(results),
        "configuration": to_json_value(configuration),
        "environment": to_json_value(environment),
    }
    run.mkdir(parents=True, exist_ok=True)
    path = run / run_layout.RESULTS
    write_atomically(path, json_text(content).encode())
    return path


def _number_of(chosen: Mapping[str, str] | None, out: Path, results: Sequence[Result]) -> int | None:
    """Return which of the results, in the order of their seeds, is the first of the chosen method."""
    if chosen is None:
        return None
    run = (out / chosen["run"]).resolve()
    of_method = (
        number
        for number, result in enumerate(results)
        if result.directory is not None
        and result.directory.name == chosen["folder"]
        and run_of(result).resolve() == run
    )
    return next(of_method, None)


def write_predictions_csv(
    run: Path, results: Sequence[Result], extra: Sequence[Mapping[str, Sequence[str]]] = ()
) -> Path:
    """Write ``predictions.csv``: a row for each test image, method and seed; the run too where there are several.

    Parameters
    ----------
    run : Path
        Where it is written.
    results : sequence of Result
        Loaded ones.
    extra : sequence of mapping, optional
        For each result, what else is known of its test images: columns [n] by their names. They come last; one that is
        called as a column that is there already has ``extra_`` before its name.
    """
    runs = {run_of(result) for result in results}
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    columns = ["run"] * (len(runs) > 1) + ["seed", "method", "name", "key", "path", *results[0].task.columns]
    names = list(dict.fromkeys(name for extra_columns in extra for name in extra_columns))
    writer.writerow([*columns, *distinct_names(names, columns)])
    for result, extra_columns in zip(results, extra or [{}] * len(results), strict=True):
        origin = [str(run_of(result))] * (len(runs) > 1) + [result.seed, result.method, result.name]
        predictions = result.predictions
        blank = [""] * len(predictions)
        extra_cells = (
            zip(*(extra_columns.get(name, blank) for name in names), strict=True) if names else [()] * len(predictions)
        )
        images = zip(predictions.keys, predictions.locations, predictions.statistics, extra_cells, strict=True)
        for key, location, statistic, cells in images:
            writer.writerow([*origin, key.decode(), location, *result.task.cells(statistic), *cells])
    run.mkdir(parents=True, exist_ok=True)
    path = run / run_layout.PREDICTIONS_TABLE
    # a file name need not be text; the bytes that are not go out as they came in
    write_atomically(path, rows.getvalue().encode("utf-8", errors="surrogateescape"))
    return path


def distinct_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the names of further columns of a table, with ``extra_`` before those that it has already."""
    distinct: list[str] = []
    for name in names:
        while name in (*taken, *distinct):
            name = f"extra_{name}"
        distinct.append(name)
    return distinct


def run_of(result: Result) -> Path:
    """Return the run that a loaded result is part of: RUN of RUN/seed-0/linear-logistic."""
    if result.directory is None:
        raise ValueError("only a loaded result knows its run")
    return run_layout.run_of(result.directory)


def read_json(path: Path, mend: str = "delete its folder and train this method again") -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path
    mend : str
        What to do where it is damaged.

    Raises
    ------
    DataError
        If the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; finish the run, or train this method again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); {mend}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (not a JSON object); {mend}")
    return content


def read_comparison(run: Path) -> dict[str, Any]:
    """Return what the results.json of a run says of all its methods; nothing where there is none.

    Raises
    ------
    DataError
        If it is damaged.
    """
    path = run / run_layout.RESULTS
    return read_json(path, f"`compare` {run} makes it anew") if path.exists() else {}


def json_text(content: Mapping[str, Any]) -> str:
    """Return indented JSON with every list of plain numbers on one line, so that a confusion matrix reads as one."""
    text = json.dumps(content, indent=2, allow_nan=False)
    # a line break never stands inside a JSON string, so this cannot touch one
    return re.sub(r"\[\n([^\[\]{}\"]*)\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def _results_of(run: Path) -> list[Result]:
    if not run.is_dir():
        raise DataError(f"{run} is not a run: there is no such folder")
    # whichever of the two files is there, the other one must be too
    names = (run_layout.RESULT, run_layout.PREDICTIONS)
    directories = {path.parent for name in names for path in files_of_methods(run, name)}
    if not directories:
        if part := run_layout.part_of_run(run):
            raise UsageError(part)
        raise DataError(f"{run} has no finished results (seed-*/*/result.json); train a method into it first")
    results = [_with_predictions(directory) for directory in sorted(directories)]
    first_of: dict[tuple[int, str, str], Result] = {}
    for result in results:
        if (first := first_of.setdefault((result.seed, result.method, result.name), result)) is not result:
            raise DataError(
                f"{first.directory} and {result.directory} are the same method, with the same seed: move the one that "
                f"is a copy out of {run}"
            )
    return sorted(results, key=lambda result: (result.seed, get_method(result.method).order, result.name))


def _with_predictions(directory: Path) -> Result:
    """Return a result whose predictions are there and its own: damaged ones are refused now, not halfway through.

    A method that takes the place of this one meanwhile is read in its place.
    """
    while True:
        before = folder_identity(directory)
        try:
            result = Result.load(directory)
            _ = result.predictions
        except DataError:
            if folder_identity(directory) == before:
                raise
        else:
            return result


def _extractions(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return what stage 1 left in each run and seed, told apart by ``run`` and ``seed``."""
    results_by_seed = {result.directory.parent: result for result in results if result.directory is not None}
    paths = ((directory / run_layout.EXTRACTION, result) for directory, result in results_by_seed.items())
    return [
        {"run": str(run_of(result)), "seed": result.seed, **read_json(path)} for path, result in paths if path.exists()
    ]


def _is_interval(test: Mapping[str, Any]) -> bool:
    interval = test.get("ci95")
    return (
        isinstance(interval, list)
        and len(interval) == 2
        and all(matches_annotation(end, float | None) for end in interval)
    )


def _how_tasks_differ(task: Task, other: Task) -> str:
    if task.name != other.name:
        return f"different tasks ({task.name}; {other.name})"
    said, said_of_other = (compared.uncalibrated().to_json() for compared in (task, other))
    differing = [name for name in said if said[name] != said_of_other.get(name)]
    names = [listed(getattr(compared, "class_names", ()), separator="; ") for compared in (task, other)]
    if names[0] != names[1]:
        return f"different classes ({', and '.join(names)})"
    settings = (f"{name} {said[name]!r} and {said_of_other.get(name)!r}" for name in differing)
    return f"different settings of {task.name} ({'; '.join(settings)})"


def _test_images(result: Result) -> Counter[tuple[bytes, str]]:
    return Counter(zip(result.predictions.keys.tolist(), result.predictions.labels.tolist(), strict=True))


def _described(images: Counter[tuple[bytes, str]], result: Result) -> str:
    """Return how many images these are, with the first few by place, label and key."""
    if not images:
        return "none"
    location = dict(zip(result.predictions.keys.tolist(), result.predictions.locations.tolist(), strict=True))
    descriptions = [f"{location[key]} labelled {label}, key {key.decode()}" for key, label in sorted(images)]
    return f"{images.total()} ({listed(descriptions, separator='; ')})"


def to_json_value(value: Any) -> Any:
    """Return `value` as JSON can hold it: mappings, lists and plain values, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


_STORED: dict[str, Any] = {
    name: dict[str, Any] if name == "task" else hint
    for name, hint in get_type_hints(Result).items()
    if name != "directory"
}


def matches_annotation(value: object, hint: Any) -> bool:
    """Whether a JSON value has the shape of an annotation; lists are not looked into, they can be long."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(matches_annotation(value, option) for option in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(matches_annotation(item, get_args(hint)[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    kind = get_origin(hint) or hint
    return isinstance(value, list if kind is tuple else kind)

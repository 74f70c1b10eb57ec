"""Results on disk: what one method and seed reached on the test split, at what cost, with which predictions.

Writing, reading and checking only. What results say against each other is in ``pipeline.evaluation.comparison``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.atomic_write import write_atomically
from cache.errors import DataError
from stages.config.version_1 import METHOD_NAMES
from stages.tasks.evaluate import Metrics

METHODS = ("linear", "head", "finetune", "uncached", "scratch")
"""The methods of transfer, in the order they are shown."""

VERSION = 2
"""Of ``result.json``; version 1 named a method `frozen` that is `uncached` now."""

CACHED = ("linear", "head")
"""The methods that train on cached features."""


class Predictions:
    """What was predicted for the test split, in the manifest's order.

    Parameters
    ----------
    keys : str or S32 [n]
        Keys of the images; kept as S32.
    locations : str [n]
        Where the images are.
    labels : int [n]
        True classes; kept as int64.
    probabilities : float [n, classes]
        Predicted probabilities; kept as float32.
    """

    ARRAYS = ("keys", "locations", "labels", "probabilities")
    """The names of the arrays in ``predictions.npz``."""

    def __init__(self, keys: ArrayLike, locations: ArrayLike, labels: ArrayLike, probabilities: ArrayLike) -> None:
        self.keys: NDArray[np.bytes_] = np.asarray(keys, dtype="S32")
        self.locations: NDArray[np.str_] = np.asarray(locations, dtype=np.str_)
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.probabilities: NDArray[np.float32] = np.asarray(probabilities, dtype=np.float32)
        n, classes = self.probabilities.shape
        if not self.keys.shape == self.locations.shape == self.labels.shape == (n,):
            raise ValueError("keys, locations, labels and probabilities are not about the same images")
        if n and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"there are labels outside the {classes} classes of the probabilities")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the largest probability, int64 [n]."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true one, bool [n]."""
        correct: NDArray[np.bool_] = self.predicted == self.labels
        return correct

    @cached_property
    def key_order(self) -> NDArray[np.int64]:
        """Rows in the order of their keys (and labels): the same images stand at the same place for every method."""
        return np.lexsort((self.labels, self.keys))

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read a ``predictions.npz``.

        Raises
        ------
        DataError
            If the file is missing, damaged, or holds something else.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {name: _read_array(archive, name) for name in cls.ARRAYS}
            return cls(**arrays)
        except FileNotFoundError:
            raise DataError(f"{path} is missing, but its result.json is there; train this method again") from None
        except _DAMAGED_ARCHIVE as error:
            raise DataError(f"{path} is damaged ({error}); delete its folder and train this method again") from error


@dataclass(frozen=True)
class Result:
    """What one method reached with one seed; the attributes are those of ``result.json``, see ``docs/design.md``."""

    method: str
    name: str
    seed: int
    samples: dict[str, int]
    class_names: tuple[str, ...]
    val: dict[str, float]
    test: Metrics
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
    image_size: int | None
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    directory: Path | None = field(default=None, compare=False)
    """Where it was loaded from; not part of the file."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``result.json`` holds; numbers that are not finite become null."""
        stored = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "directory"}
        return {"version": VERSION, **{name: to_json_value(value) for name, value in stored.items()}}

    def save(self, directory: Path, predictions: Predictions) -> None:
        """Write ``predictions.npz``, then ``result.json``: where the second stands, the first is complete."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **{name: getattr(predictions, name) for name in Predictions.ARRAYS})
        write_atomically(directory / "predictions.npz", arrays.getvalue())
        write_atomically(directory / "result.json", json_text(self.to_json()).encode())

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions beside a loaded result.

        Raises
        ------
        DataError
            If they are missing, damaged, or those of another training.
        """
        if self.directory is None:
            raise ValueError("only a loaded result knows where its predictions are")
        path = self.directory / "predictions.npz"
        predictions = Predictions.load(path)
        same_classes = predictions.probabilities.shape[1] == len(self.class_names)
        if not (same_classes and len(predictions) and math.isclose(predictions.correct.mean(), self.test["accuracy"])):
            raise DataError(f"{path} does not belong to the result.json beside it; train this method again")
        return predictions

    @classmethod
    def load(cls, directory: Path) -> Result:
        """Read a ``result.json``; names that this version does not know are passed over.

        Raises
        ------
        DataError
            If the file is missing, damaged, or lacks something.
        """
        path = directory / "result.json"
        stored = read_json(path)
        if isinstance(stored.get("method"), str) and stored.get("version", 1) == 1:
            stored["method"] = METHOD_NAMES.get(stored["method"], stored["method"])
        wrong = [
            name for name, hint in _STORED.items() if name not in stored or not matches_annotation(stored[name], hint)
        ]
        if not wrong:
            wrong = ["method"] * (stored["method"] not in METHODS) + ["val"] * ("accuracy" not in stored["val"])
        if wrong:
            raise DataError(f"{path} has no usable {', '.join(wrong)}; train this method again")
        known = {name: stored[name] for name in _STORED}
        return cls(**{**known, "class_names": tuple(known["class_names"])}, directory=directory)


def load_results(run_dirs: Sequence[Path]) -> list[Result]:
    """Read every finished result of the runs, with its predictions, in the order of run, seed, method and name.

    Raises
    ------
    DataError
        If a run is missing or has no results, or a file of a result is missing or damaged.
    """
    return [result for run in run_dirs for result in _results_of(run)]


def require_same_test_images(results: Sequence[Result]) -> None:
    """Refuse results that were not tested on the same images with the same labels.

    Raises
    ------
    DataError
        If classes differ anywhere, or test images differ within a seed; it says which.
    """
    first_of_seed: dict[int, Result] = {}
    for result in results:
        if result.class_names != results[0].class_names:
            raise DataError(
                f"{result.directory} and {results[0].directory} have different classes "
                f"({_some(result.class_names)}; {_some(results[0].class_names)}); compare runs on the same data"
            )
        first = first_of_seed.setdefault(result.seed, result)
        ours, theirs = _test_images(result), _test_images(first)
        only_ours, only_theirs = ours - theirs, theirs - ours
        if only_ours or only_theirs:
            raise DataError(
                f"with seed {result.seed}, {result.directory} and {first.directory} were not tested on the same "
                f"images: {_described(only_ours, result)} only in the former, {_described(only_theirs, first)} only "
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
) -> Path:
    """Write ``results.json``: every result, what they say against each other, and what is needed to repeat them."""
    content = {
        "verdict": verdict,
        "comparisons": list(comparisons),
        "results": [result.to_json() for result in results],
        "extraction": _extractions(results),
        "configuration": to_json_value(configuration),
        "environment": to_json_value(environment),
    }
    run.mkdir(parents=True, exist_ok=True)
    path = run / "results.json"
    write_atomically(path, json_text(content).encode())
    return path


def write_predictions_csv(run: Path, results: Sequence[Result]) -> Path:
    """Write ``predictions.csv``: a row for each test image, method and seed; the run too where there are several."""
    runs = {run_of(result) for result in results}
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    class_names = results[0].class_names
    columns = ["seed", "method", "name", "key", "path", "label", "predicted"]
    writer.writerow(["run"] * (len(runs) > 1) + columns + [f"probability_{name}" for name in class_names])
    for result in results:
        whose = [str(run_of(result))] * (len(runs) > 1) + [result.seed, result.method, result.name]
        all_of = result.predictions
        for key, location, label, predicted, probabilities in zip(
            all_of.keys, all_of.locations, all_of.labels, all_of.predicted, all_of.probabilities, strict=True
        ):
            known = [key.decode(), location, class_names[label], class_names[predicted]]
            writer.writerow(whose + known + [f"{one:.6g}" for one in probabilities])
    run.mkdir(parents=True, exist_ok=True)
    path = run / "predictions.csv"
    # a file name need not be text; the bytes that are not go out as they came in
    write_atomically(path, rows.getvalue().encode("utf-8", errors="surrogateescape"))
    return path


def run_of(result: Result) -> Path:
    """Return the run that a loaded result is part of: RUN of RUN/seed-0/linear-logistic."""
    if result.directory is None:
        raise ValueError("only a loaded result knows its run")
    return result.directory.parent.parent


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

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
        raise DataError(f"{path} is damaged ({error}); delete its folder and train this method again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (not a JSON object); delete its folder and train this method again")
    return content


def json_text(content: Mapping[str, Any]) -> str:
    """Return indented JSON with every list of plain numbers on one line, so that a confusion matrix reads as one."""
    text = json.dumps(content, indent=2, allow_nan=False)
    # a line break never stands inside a JSON string, so this cannot touch one
    return re.sub(r"\[\n([^\[\]{}\"]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


# what a file that is not, or no longer, an archive of arrays makes zipfile, zlib and numpy raise
_DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    whole = io.BytesIO(archive.read(f"{name}.npy"))  # checked against its checksum before anything is made of it
    return np.lib.format.read_array(whole, allow_pickle=False)


def _results_of(run: Path) -> list[Result]:
    if not run.is_dir():
        raise DataError(f"{run} is not a run: there is no such folder")
    # whichever of the two files is there, the other one must be too
    directories = {path.parent for name in ("result.json", "predictions.npz") for path in run.glob(f"seed-*/*/{name}")}
    if not directories:
        raise DataError(f"{run} has no finished results (seed-*/*/result.json); train a method into it first")
    results = [Result.load(directory) for directory in sorted(directories)]
    for result in results:
        _ = result.predictions  # damaged ones are refused here, not halfway through a comparison
    return sorted(results, key=lambda result: (result.seed, METHODS.index(result.method), result.name))


def _extractions(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return what stage 1 left in each run and seed, told apart by ``run`` and ``seed``."""
    of_seed = {result.directory.parent: result for result in results if result.directory is not None}
    paths = ((directory / "extraction.json", result) for directory, result in of_seed.items())
    return [
        {"run": str(run_of(result)), "seed": result.seed, **read_json(path)} for path, result in paths if path.exists()
    ]


def _test_images(result: Result) -> Counter[tuple[bytes, int]]:
    return Counter(zip(result.predictions.keys.tolist(), result.predictions.labels.tolist(), strict=True))


def _described(images: Counter[tuple[bytes, int]], result: Result) -> str:
    """Return how many images these are, with the first few by place, label and key."""
    if not images:
        return "none"
    location = dict(zip(result.predictions.keys.tolist(), result.predictions.locations.tolist(), strict=True))
    named = [
        f"{location[key]} labelled {result.class_names[label]}, key {key.decode()}" for key, label in sorted(images)
    ]
    return f"{images.total()} ({_some(named)})"


def _some(names: Sequence[str], limit: int = 3) -> str:
    return "; ".join(names[:limit]) + (f"; and {len(names) - limit} more" if len(names) > limit else "")


def to_json_value(value: Any) -> Any:
    """Return `value` as JSON can hold it: mappings, lists and plain values, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


_STORED: dict[str, Any] = {name: hint for name, hint in get_type_hints(Result).items() if name != "directory"}


def matches_annotation(value: object, hint: Any) -> bool:
    """Whether a JSON value has the shape of an annotation; lists are not looked into, they can be long."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(matches_annotation(value, one) for one in get_args(hint))
    if is_typeddict(hint):
        members = get_type_hints(hint)
        return isinstance(value, dict) and all(
            name in value and matches_annotation(value[name], members[name]) for name in members
        )
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(matches_annotation(one, get_args(hint)[1]) for one in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    kind = get_origin(hint) or hint
    return isinstance(value, list if kind is tuple else kind)

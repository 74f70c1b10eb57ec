"""What a method predicts for samples, and the file in which it is kept: ``predictions.npz``."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.atomic_write import write_atomically
from cache.errors import DataError
from stages.tasks.base import Statistics, Task, find_metric
from stages.tasks.intervals import right_or_wrong

DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
)
"""What a file that is not, or no longer, an archive of arrays makes zipfile, zlib and numpy raise."""


class Predictions:
    """What was predicted for the test split, in the manifest's order.

    Parameters
    ----------
    task : Task
        Whose statistics these are.
    keys : str or S32 [n]
        Keys of the images; kept as S32.
    locations : str [n]
        Where the images are.
    statistics : array [n, ...]
        What the task keeps of each sample: the truth, and what was predicted.
    folds : str [n], optional
        The outer fold that each sample was tested in, where there are folds.
    groups : str [n], optional
        What samples that are not independent of each other belong to, a patient or a product; '' for one on its own.
    """

    def __init__(
        self,
        task: Task,
        keys: ArrayLike,
        locations: ArrayLike,
        statistics: Statistics,
        folds: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        self.task = task
        self.keys: NDArray[np.bytes_] = np.asarray(keys, dtype="S32")
        self.locations: NDArray[np.str_] = np.asarray(locations, dtype=np.str_)
        self.statistics = statistics
        self.folds: NDArray[np.str_] | None = None if folds is None else np.asarray(folds, dtype=np.str_)
        self.groups: NDArray[np.str_] | None = None if groups is None else np.asarray(groups, dtype=np.str_)
        lengths = [self.keys.shape, self.locations.shape, *([] if self.groups is None else [self.groups.shape])]
        if any(length != statistics.shape[:1] for length in lengths):
            raise ValueError("keys, locations, groups and statistics are not about the same images")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def labels(self) -> NDArray[np.str_]:
        """What is true, in words, [n]."""
        return self.task.labels(self.statistics)

    @cached_property
    def correct(self) -> NDArray[np.bool_] | None:
        """Whether each sample is predicted rightly, bool [n]; None where the task's metric knows more than that."""
        return right_or_wrong(find_metric(self.task), self.statistics)

    @cached_property
    def units(self) -> NDArray[np.str_] | None:
        """What is independent of each other, [n]: groups, and samples on their own; None where none has a group."""
        if self.groups is None:
            return None
        own_names = np.char.add("image ", np.char.decode(self.keys, "ascii"))
        return np.where(self.groups == "", own_names, np.char.add("group ", self.groups))

    @cached_property
    def key_order(self) -> NDArray[np.int64]:
        """Rows in the order of their keys (and labels): the same images stand at the same place for every method."""
        return np.lexsort((self.labels, self.keys))

    def of_task(self, task: Task) -> Predictions:
        """Return the same predictions under a task that differs in what was set of it: its scale, its thresholds."""
        return Predictions(task, self.keys, self.locations, self.statistics, self.folds, self.groups)

    def select(self, rows: NDArray[np.int64]) -> Predictions:
        """Return the predictions in those rows."""
        folds, groups = (None if values is None else values[rows] for values in (self.folds, self.groups))
        return Predictions(self.task, self.keys[rows], self.locations[rows], self.statistics[rows], folds, groups)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what ``predictions.npz`` holds: keys, locations, folds and groups if any, fields of the statistics."""
        further = {"folds": self.folds, _GROUPS: self.groups}
        known = {name: values for name, values in further.items() if values is not None}
        return {"keys": self.keys, "locations": self.locations, **known, **arrays_of_statistics(self.statistics)}

    @classmethod
    def load(cls, path: Path, task: Task) -> Predictions:
        """Read a ``predictions.npz``.

        Raises
        ------
        DataError
            If the file is missing, damaged, or holds something else.
        """
        try:
            arrays = read_arrays(path)
            keys, locations, folds = arrays.pop("keys"), arrays.pop("locations"), arrays.pop("folds", None)
            groups = arrays.pop(_GROUPS, None)
            predictions = cls(task, keys, locations, statistics_of_arrays(arrays), folds, groups)
            if len(task.cells(predictions.statistics[0])) != len(task.columns):
                raise ValueError(f"these are not predictions of the task {task.name}")
            return predictions
        except FileNotFoundError:
            raise DataError(f"{path} is missing, but its result.json is there; train this method again") from None
        except DAMAGED_ARCHIVE as error:
            raise DataError(f"{path} is damaged ({error}); delete its folder and train this method again") from error


_GROUPS = "groups"

_WHOLE = "statistics"
"""What statistics without fields are called in a file."""

_OLD_FIELDS = {"labels": "target"}
"""What version 1 calls a field of the statistics, and what it is called now."""


def arrays_of_statistics(statistics: Statistics) -> dict[str, NDArray[Any]]:
    """Return each field of the statistics by its name, or the whole."""
    names = statistics.dtype.names
    return {name: statistics[name] for name in names} if names else {_WHOLE: statistics}


def statistics_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """Return the statistics whose fields, or whose whole, were read from a file."""
    if set(arrays) == {_WHOLE}:
        return arrays[_WHOLE]
    current_names = {_OLD_FIELDS.get(name, name): array for name, array in arrays.items()}
    (samples,) = {len(array) for array in current_names.values()}
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in current_names.items()]
    statistics: Statistics = np.empty(samples, dtype=np.dtype(kinds))
    for name, array in current_names.items():
        statistics[name] = array
    return statistics


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays without pickled objects."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote; what is no such file raises one of `DAMAGED_ARCHIVE`."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        return {name: _read_array(archive, name) for name in names}


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    content = io.BytesIO(archive.read(f"{name}.npy"))  # checked against its checksum before anything is made of it
    return np.lib.format.read_array(content, allow_pickle=False)

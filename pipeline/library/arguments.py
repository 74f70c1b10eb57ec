"""What arguments of the library may be, where Python itself takes anything and no option of a stage says it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache import FeatureCache
from cache.errors import UsageError
from stages.config.bounds import is_share
from stages.config.features import FeatureConfig
from stages.data.targets.arrays import is_unknown

_SEEDS = 2**32
"""NumPy, scikit-learn and torch all take numbers below."""


def seed_of(name: str, value: Any) -> int:
    """Return a seed as a number of Python's.

    Raises
    ------
    UsageError
        If it is no whole number from 0 to 4,294,967,295.
    """
    if not isinstance(value, (int, np.integer)) or not 0 <= value < _SEEDS:
        raise UsageError(f"{name} has to be a whole number from 0 to {_SEEDS - 1:,}, not {value!r}")
    return int(value)


def require_share(name: str, value: Any) -> None:
    """Refuse what is no number between 0 and 1, neither included.

    Raises
    ------
    UsageError
    """
    if not isinstance(value, (int, float, np.number)) or not is_share(float(value)):
        raise UsageError(f"{name} has to lie between 0 and 1, not be {value!r}")


def require_one_head(head: Any) -> None:
    """Refuse what is not one word.

    Raises
    ------
    UsageError
    """
    if not isinstance(head, str):
        raise UsageError(f"head has to be the name of one head, not {head!r}")


def head_path(path: Any) -> Path:
    """Return the path of the tensors of a head, which its description lies beside, as ``.json``.

    A name may have points: ``cats-1.0`` is not the files of ``cats-1.1``.

    Raises
    ------
    UsageError
        If it names no file.
    """
    if not isinstance(path, (str, PathLike)) or not Path(path).name:
        raise UsageError(f"path has to be the path of the files of a head, with or without suffix, not {path!r}")
    file = Path(path)
    return file if file.suffix in (".safetensors", ".json") else file.with_name(f"{file.name}.safetensors")


def cache_folder(cache: Any, default: Path = FeatureConfig.cache) -> Path:
    """Return the folder of an argument `cache`; `default` where it is None.

    Raises
    ------
    UsageError
        If it is neither a path nor a cache.
    """
    if cache is None:
        return default
    if isinstance(cache, FeatureCache):
        return cache.root
    if isinstance(cache, (str, PathLike)) and str(cache):
        return Path(cache)
    raise UsageError(f"cache has to be the path of a folder, a FeatureCache or None, not {cache!r}")


def group_names(groups: ArrayLike | None, count: int, of: str = "images") -> list[str]:
    """Return what the group of each sample is called, '' where it is missing; nothing where there are no groups.

    Raises
    ------
    UsageError
        If there is not one for each of `count` samples.
    """
    if groups is None:
        return []
    return ["" if is_unknown(group) else str(group) for group in _values(groups, count, of).tolist()]


def group_numbers(groups: ArrayLike, count: int, of: str = "images") -> NDArray[np.int64]:
    """Return a number for each sample, int64 [n], the same within a group, a missing one being a group of its own.

    Numbers are in the order of the groups. Raises as `group_names`.
    """
    values = _values(groups, count, of)
    is_alone = np.array([is_unknown(group) for group in values.tolist()], dtype=bool)
    known = np.asarray(values[~is_alone].tolist())  # numbers as numbers, also of a list or a column of objects
    numbers = np.empty(count, dtype=np.int64)
    numbers[~is_alone] = np.unique(known.astype(str) if known.dtype == object else known, return_inverse=True)[1]
    numbers[is_alone] = np.arange(count, count + is_alone.sum())
    return numbers


def _values(groups: ArrayLike, count: int, of: str) -> NDArray[Any]:
    """Return the group of each sample as it was given, [n]."""
    is_array = hasattr(groups, "dtype") or hasattr(groups, "columns")
    values = np.asarray(groups, dtype=None if is_array else object)  # in a list of text NaN would become text
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise UsageError(f"groups has to hold one value for each of the {of}, [n], not {list(values.shape)}")
    if len(values) != count:
        raise UsageError(f"groups holds {len(values)} values for {count} {of}; there has to be one for each")
    return values

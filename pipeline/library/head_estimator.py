"""What a classifier and a regressor on features have in common: fitting a head, asking it, keeping it on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from pipeline.library.arguments import group_numbers, require_one_head, require_share, seed_of
from stages.config.heads import HeadConfig
from stages.data.group_split import labels_of_strata, split_units, stratified_group_split
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import HeadResult, head_probabilities, train_head
from stages.fitting.problem import FitProblem
from stages.network.heads.base import Head
from stages.network.heads.serialization import load_head, save_head
from stages.runtime.allocator import freed_memory_returned
from stages.runtime.device import resolve_device
from stages.tasks.base import Task, ranked_by

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK_ROWS = 64
"""Rows that go through a head at a time."""


class HeadEstimator(BaseEstimator):  # type: ignore[misc]
    """A head on features as scikit-learn's estimators are; the parameters are those of the classes made of it."""

    head: str
    c_values: tuple[float, ...] | None
    scalers: tuple[Any, ...]
    cv: int | None
    validation_fraction: float
    metric: str | None
    device: str
    random_state: int | np.random.RandomState | None

    def _fit_head(
        self,
        features: NDArray[Any],
        task: Task,
        targets_of: Callable[[Task], NDArray[Any]],
        groups: ArrayLike | None,
        options: HeadConfig,
    ) -> Task:
        """Fit a head, leave it in `head_` and how it came about in `result_`; return its task, calibrated.

        Parameters
        ----------
        targets_of : callable
            From the task to its targets, [n, ...]: before and after it is scaled to the training samples.
        """
        task = ranked_by(task, self.metric, balanced=options.class_weights == "balanced")
        of_group = None if groups is None else group_numbers(groups, len(features), "samples")
        seed = self._drawn_seed()
        targets = targets_of(task)
        is_held_out = _held_out(features, task, targets, of_group, self.validation_fraction, seed)
        task = task.scaled_to(targets[~is_held_out])
        targets = targets_of(task)
        train, val = (
            FeatureRows(features[part], targets[part], groups=None if of_group is None else of_group[part])
            for part in (~is_held_out, is_held_out)
        )
        device = resolve_device(self.device)
        with freed_memory_returned():
            self.result_: HeadResult = train_head(self.head, FitProblem(train, val, task, options, seed, device))
        self.head_: Head = self.result_.module.to(device)
        return self.result_.task

    def _head_options(self, **more: Any) -> HeadConfig:
        require_share("validation_fraction", self.validation_fraction)
        require_one_head(self.head)
        c_options: dict[str, Any] = {} if self.c_values is None else {"c_values": self.c_values}
        return HeadConfig(head=(self.head,), scalers=self.scalers, cv=self.cv, **c_options, **more)

    def _drawn_seed(self) -> int:
        """Return a number as it is; of a random state, or none, one that is drawn."""
        if isinstance(self.random_state, (int, np.integer)):
            return seed_of("random_state", self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _answers(self, X: ArrayLike, task: Task) -> NDArray[np.float32]:
        """Return what the head says of features, as the task reads it, [n, out_features].

        Always as many rows at a time go through it: a sample's answer does not depend on which others are asked for.
        """
        check_is_fitted(self)
        require_features(X)
        features = validate_data(self, X, dtype=[np.float32, np.float16], reset=False)
        blank = np.zeros((-len(features) % _BLOCK_ROWS, features.shape[1]), dtype=features.dtype)
        filled = np.concatenate([features, blank])
        blocks = (filled[start : start + _BLOCK_ROWS] for start in range(0, len(filled), _BLOCK_ROWS))
        head = self.head_.to(resolve_device(self.device))  # where it is, but for one that was unpickled
        return np.concatenate([head_probabilities(head, block, task) for block in blocks])[: len(features)]

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, with a head that a machine can read that has no GPU."""
        return head_on_cpu(super().__getstate__())

    def _save_head(self, path: Path, described: dict[str, Any]) -> None:
        """Write the head and the parameters beside what else there is to know of it."""
        parameters = self.get_params(deep=False)
        if not isinstance(self.random_state, (int, np.integer)):
            parameters["random_state"] = None
        described = {
            **described,
            "parameters": {name: _plain(value) for name, value in parameters.items() if name != "device"},
        }
        if hasattr(self, "feature_names_in_"):
            described["feature_names"] = self.feature_names_in_.tolist()
        save_head(path, self.head_, described)

    @classmethod
    def _load_head(
        cls, path: Path, device: str, require: Callable[[dict[str, Any]], None]
    ) -> tuple[Self, dict[str, Any]]:
        """Return an estimator with the head that was saved, and what was written beside it, which `require` checks."""
        head, described = load_head(path)
        require(described)
        shape = head.config["row_shape"]
        if len(shape) != 1:
            raise UsageError(f"the head {path} takes rows of shape {shape}, and an estimator takes vectors")
        parameters: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in described.get("parameters", {}).items()
        }
        estimator = cls(**parameters, device=device)
        estimator.n_features_in_ = shape[0]
        if "feature_names" in described:
            estimator.feature_names_in_ = np.array(described["feature_names"], dtype=object)
        estimator.head_ = head.requires_grad_(False).to(resolve_device(device))
        return estimator, described


def head_on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an estimator with its head, where it has one, on the CPU."""
    head = state.get("head_")
    if head is None or all(tensor.device.type == "cpu" for tensor in head.state_dict().values()):
        return state
    on_cpu = deepcopy(head).cpu()
    result = state.get("result_")
    return {**state, "head_": on_cpu, **({} if result is None else {"result_": replace(result, module=on_cpu)})}


def require_features(X: Any) -> None:
    """Refuse images where their features are wanted, which is what they are most often mistaken for.

    Raises
    ------
    UsageError
        If the first sample is a path, an image of Pillow, or pixels.
    """
    first = X[0] if isinstance(X, (list, tuple, np.ndarray)) and len(X) else None
    is_pixels = isinstance(first, np.ndarray) and first.ndim >= 2 and first.dtype == np.uint8
    if is_pixels or isinstance(first, (str, PathLike, Image.Image)):
        raise UsageError(
            "X has to be features, float [n, d], and these are images: make it by pipeline.features(images), or put a "
            "FeatureExtractor before this in a Pipeline of scikit-learn"
        )


def require_known(is_unknown: ArrayLike, what: str) -> None:
    """Refuse targets of which some are not known.

    Parameters
    ----------
    is_unknown : array of bool [n]
    what : str
        That is not known of them.

    Raises
    ------
    DataError
        That says of how many samples, and of which one first.
    """
    is_missing = np.asarray(is_unknown, dtype=bool)
    missing = np.flatnonzero(is_missing)
    if len(missing):
        raise DataError(
            f"y does not know the {what} of {len(missing)} of {len(is_missing)} samples, the first is sample "
            f"{missing[0]}: leave them out of X and y"
        )


def has_columns(y: ArrayLike) -> bool:
    """Return whether targets are several for each sample."""
    targets = np.asarray(y)
    return targets.ndim == 2 and targets.shape[1] > 1


def _plain(value: Any) -> Any:
    """Return a parameter as JSON has it: numbers of NumPy as Python's, tuples, arrays and the like as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def _held_out(
    features: NDArray[Any],
    task: Task,
    targets: NDArray[Any],
    groups: NDArray[np.int64] | None,
    share: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Return which samples are held out of each stratum; equal rows, and those of a group, stay together.

    Which ones depends on the rows and the seed alone, not on the order of the samples.
    """
    keys = [key_of_bytes(row.tobytes()) for row in features]
    names = [] if groups is None else [str(group) for group in groups]
    units = split_units(keys, labels_of_strata(task.strata(targets), len(keys)), [""] * len(keys), names, seed)
    held_out_keys = stratified_group_split(units, share, min_kept=1)
    is_held_out = np.array([key in held_out_keys for key in keys])
    if not is_held_out.any():
        different = len(set(keys))
        alike = f", of which {different} are different," if different < len(keys) else ""
        raise DataError(
            f"none of the {len(keys)} samples{alike} can be held out for validation and leave one of each class to "
            "learn from: give more samples of a class, or of other groups"
        )
    return is_held_out

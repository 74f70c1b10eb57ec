"""Numbers from features, as scikit-learn has it: the second stage as a regressor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cache.errors import DataError, UsageError
from pipeline.library.arguments import head_path
from pipeline.library.head_estimator import HeadEstimator, has_columns, require_features, require_known
from stages.runtime.fresh_settings import usable_anywhere
from stages.tasks.regression import Regression


class TransferRegressor(RegressorMixin, HeadEstimator):  # type: ignore[misc]
    """A head on features that predicts numbers: fitted, and its settings chosen, as the command ``train`` does it.

    Parameters
    ----------
    head : str
        ``ridge``, or another that predicts numbers, as ``mlp``.
    c_values : tuple of float, optional
        Values of C that are tried (default: eleven from 1e-5 to 1).
    scalers : tuple of {"none", "standard", "l2"}
        Scalings of the features that are tried. ``standard`` holds the variance of each against those of its neighbors,
        as few rows tell it badly; columns of a table, more than 32 and in unlike units, are to be scaled before.
    cv : int, optional
        As for :class:`TransferClassifier`.
    validation_fraction : float
        Share of the samples that is held out: heads that train in epochs stop by it, and intervals are made from the
        errors there. What is fitted in the end is fitted on all samples.
    log_target : bool
        Whether logarithms are predicted: for prices, sizes, counts, all of them above 0.
    metric : str, optional
        What settings and epochs are chosen by, such as ``mae`` (default: ``r2``).
    device : str
    random_state : int, RandomState or None

    Attributes
    ----------
    n_features_in_ : int
    head_ : nn.Module
        Features [b, d] -> numbers [b, targets] on the scale of `task_`, on the device.
    task_ : Regression
        With the scale of the numbers, and half the width of their intervals.
    result_ : HeadResult
        What was chosen among what, and how it validated.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from pipeline import TransferRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> TransferRegressor(random_state=0).fit(X, y).predict_interval(X[:3]).shape
    (3, 2)
    """

    def __init__(
        self,
        head: str = "ridge",
        *,
        c_values: tuple[float, ...] | None = None,
        scalers: tuple[Literal["none", "standard", "l2"], ...] = ("none", "standard"),
        cv: int | None = None,
        validation_fraction: float = 0.2,
        log_target: bool = False,
        metric: str | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.head = head
        self.c_values = c_values
        self.scalers = scalers
        self.cv = cv
        self.validation_fraction = validation_fraction
        self.log_target = log_target
        self.metric = metric
        self.device = device
        self.random_state = random_state

    @usable_anywhere
    def fit(self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None) -> TransferRegressor:
        """Fit the head.

        Parameters
        ----------
        X : array [n, d]
        y : array [n] or [n, targets]
            Numbers.
        groups : array [n], optional
            Samples of one group stay together in folds and in what is held out.

        Raises
        ------
        ValueError
            If a parameter is wrong, or there is nothing to learn from.
        """
        options = self._head_options()
        several = has_columns(y)
        require_features(X)
        features, targets = validate_data(
            self, X, y, dtype=[np.float32, np.float16], ensure_min_samples=2, multi_output=several, y_numeric=True
        )
        numbers = np.asarray(targets, dtype=np.float64).reshape(len(features), -1)
        require_known(np.isnan(numbers).any(axis=1), "number")  # None among objects
        if self.log_target and (numbers <= 0).any():
            raise DataError("y holds numbers that have no logarithm: with log_target each is above 0")
        numbers = np.log(numbers) if self.log_target else numbers
        count = numbers.shape[1]
        names = tuple(f"target_{place}" for place in range(count)) if several else ("target",)
        task = Regression(names, (0.0,) * count, (1.0,) * count, log=self.log_target)

        def on_scale(task: Any) -> NDArray[np.float64]:
            return np.asarray((numbers - task.mean) / task.scale)

        fitted = self._fit_head(features, task, on_scale, groups, options)
        self.task_ = Regression.from_json(fitted.to_json())
        return self

    @usable_anywhere
    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the number of each sample, float64 [n], or [n, targets] where y had several."""
        check_is_fitted(self)
        predicted = self.task_.values(torch.from_numpy(self._answers(X, self.task_)))
        return predicted if self._several else predicted[:, 0]

    @usable_anywhere
    def predict_interval(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the ends of intervals that hold the true number in 90 % of cases, float64 [n, 2] or [n, targets, 2].

        Split conformal intervals, from the errors for what was held out.
        """
        check_is_fitted(self)
        answers = torch.from_numpy(self._answers(X, self.task_))
        statistics = self.task_.statistic(answers, torch.full_like(answers, float("nan"), dtype=torch.float64))
        ends = np.stack([statistics["low"], statistics["high"]], axis=2)
        return ends if self._several else ends[:, 0]

    def save(self, path: Path | str) -> None:
        """Write the head: its tensors to `path` with ``.safetensors``, all else to ``.json`` beside it.

        `load` reads it back. Nothing is pickled. Of a random state that is no number nothing is kept, nor is `result_`.
        """
        check_is_fitted(self)
        self._save_head(head_path(path), {"task": self.task_.to_json()})

    @classmethod
    @usable_anywhere
    def load(cls, path: Path | str, *, device: str = "auto") -> TransferRegressor:
        """Return a fitted regressor that `save` wrote, or one round a head of a run: ``RUN/seed-0/linear-ridge/head``.

        It has no `result_`; one round the head of a run has default parameters, which it was not trained with.

        Parameters
        ----------
        path : Path
            With or without suffix.
        device : str
            Where it computes from now on.

        Raises
        ------
        ValueError
            If there is no such head, it is damaged, does not take vectors, or predicts no numbers.
        """

        def require(described: dict[str, Any]) -> None:
            if described.get("task", {}).get("name") != Regression().name:
                raise UsageError(f"the head {path} was saved without numbers that it predicts, so it is no regressor")

        regressor, described = cls._load_head(head_path(path), device, require)
        regressor.task_ = Regression.from_json(described["task"])
        return regressor

    @property
    def _several(self) -> bool:
        """Whether y had a column for each of several numbers."""
        return self.task_.out_features > 1

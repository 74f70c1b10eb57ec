"""One number for each sample, or several: squared errors near, absolute ones far, share of the variance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cache.errors import DataError, UsageError
from stages.tasks.averaging import Activation
from stages.tasks.base import (
    Metric,
    Reduction,
    Statistics,
    TensorBatch,
    beside_primary,
    primary_metric,
    register_task,
)
from stages.tasks.number_metrics import number_metrics

SEPARATOR = "|"
"""Between the numbers of a sample, as text."""

_COVERAGE_IN_PERCENT = 90

COVERAGE = _COVERAGE_IN_PERCENT / 100
"""Share of samples whose number a prediction interval is to hold."""

_STRATA = 10
_PER_STRATUM = 10
"""Most strata that numbers are told apart in, and samples that each of them has at least."""


@register_task("regression")
@dataclass(unsafe_hash=True)
class Regression:
    """A sample has a number, or several, which are predicted on a scale of mean 0 and variance 1.

    Targets are float64 [targets], standardized, nan where one is not known; a batch of them is [b, targets]. Outputs
    are on that scale too. A statistic is structured: ``prediction``, ``target``, and the ends of the prediction
    interval, ``low`` and ``high`` (nan without one), each float64 [targets] in the original unit.

    Attributes
    ----------
    names : tuple of str
        What the numbers are called.
    mean, scale : tuple of float
        What takes the numbers, or their logarithms, to the scale on which they are predicted; of training samples.
    log : bool
        Whether the natural logarithms are predicted.
    levels : tuple of str
        Ordered classes, lowest first, where the number is one of them: the words are numbers, or stand for their places
        0, 1, 2, .... A prediction counts as the nearest.
    interval : tuple of float, optional
        Half widths, on the scale of the outputs, of the intervals that hold the true number in `COVERAGE` of cases.
    primary : str
        The metric that ranks: by default R², of levels the quadratic kappa.
    """

    names: tuple[str, ...] = ("target",)
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    log: bool = False
    levels: tuple[str, ...] = ()
    interval: tuple[float, ...] | None = None
    primary: str = ""

    calibrates: bool = field(default=True, init=False, repr=False, compare=False)
    name: str = field(init=False, repr=False, compare=False)
    outputs: Literal["logits", "values"] = field(default="values", init=False, repr=False, compare=False)
    activation: Activation = field(default="identity", init=False, repr=False, compare=False)
    reads: Literal["text", "image"] = field(default="text", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.mean) == len(self.scale) >= 1:
            raise DataError("each number that is predicted needs a name, a mean and a scale")
        if self.levels and len(self.names) > 1:
            raise DataError("ordered classes are one target; several were given")
        values = [*self.mean, *self.scale, *(self.interval or ())]
        if not all(math.isfinite(value) for value in values) or min(self.scale) <= 0:
            raise DataError("mean and scale of a target are finite numbers, and a scale is above 0")
        if self.interval is not None and len(self.interval) != len(self.names):
            raise DataError(f"{len(self.interval)} intervals are not those of {len(self.names)} numbers")
        self._check_levels()
        self.out_features = len(self.names)
        self.metrics: Mapping[str, Metric] = number_metrics(
            self.out_features,
            self._to_outputs,
            (lambda numbers: numbers - np.exp(self.mean)) if self.log else None,
            self._nearest if self.levels else None,
            num_levels=len(self.levels),
        )
        self.primary = primary_metric(self, self.primary or self._own_metric).name
        of_numbers = ("r2", "mae", "rmse", "median_relative_error", "spearman")
        of_levels = ("qwk", "accuracy", "mae", "spearman")
        self.shown: Sequence[str] = beside_primary(self, of_levels if self.levels else of_numbers)
        words = ("target", "predicted", "low", "high")
        self.columns: Sequence[str] = words
        if len(self.names) > 1:
            self.columns = tuple(f"{word}_{name}" for word in words for name in self.names)
        count = len(self.names)
        self.predicted_columns: Sequence[str] = self.columns[count : 2 * count if self.interval is None else None]

    def __reduce__(self) -> tuple[type[Regression], tuple[Any, ...]]:
        # the metrics are closures, which other processes make for themselves
        return type(self), (self.names, self.mean, self.scale, self.log, self.levels, self.interval, self.primary)

    def load(self, raw: str) -> Tensor:
        """Return the numbers that a text holds, on the scale on which they are predicted, float64 [targets].

        Raises
        ------
        DataError
            If the text holds something else, or a number without a logarithm where that is predicted.
        """
        words = [word.strip() for word in raw.split(SEPARATOR)]
        if len(words) != len(self.names):
            raise DataError(f"{raw!r} is not {len(self.names)} number{'s' if len(self.names) > 1 else ''}")
        values = np.array([self._number(word) for word in words])
        if self.log and (values <= 0).any():
            raise DataError(f"{raw!r} has no logarithm: with `log_target` every number is above 0")
        return torch.from_numpy(self._to_outputs(values))

    def collate(self, targets: Sequence[Tensor]) -> Tensor:
        """Return float64 [b, targets]."""
        return torch.stack(list(targets))

    def loss(
        self,
        output: Tensor,
        target: TensorBatch,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Return the Huber loss of outputs [b, targets], of each sample the mean over its known numbers.

        Half the square of an error up to one standard deviation of the target, and as steep as there beyond it (Huber
        1964, "Robust estimation of a location parameter").

        Raises
        ------
        UsageError
            If targets are to be smoothed, or classes weighed: there are none.
        """
        if smoothing or class_weights is not None:
            raise UsageError("numbers have no classes: label smoothing and weights of classes are not for regression")
        targets = _tensor(target).to(output.device).float()
        known = ~targets.isnan()
        losses = functional.huber_loss(output.float(), torch.where(known, targets, 0.0), reduction="none") * known
        per_sample = losses.sum(dim=1) / known.sum(dim=1).clamp_min(1)
        return per_sample if reduction == "none" else per_sample.sum()

    def mean_loss(self, output: NDArray[np.float64], target: NDArray[np.floating]) -> float:
        """Return the mean Huber loss of outputs [n, targets] in float64."""
        known = ~np.isnan(target)
        errors = np.where(known, np.abs(output - np.where(known, target, 0)), 0)
        losses = np.where(errors <= 1, errors**2 / 2, errors - 0.5)
        return float((losses.sum(axis=1) / np.maximum(known.sum(axis=1), 1)).mean())

    def activate(self, output: Tensor, shapes: Sequence[tuple[int, ...]] | None = None) -> Tensor:
        """Return the outputs, float32 [b, targets]."""
        return output.float()

    def predict(self, activated: TensorBatch) -> Tensor:
        """Return the outputs as targets, float64 [b, targets]."""
        return _tensor(activated).double()

    def values(self, activated: TensorBatch) -> NDArray[np.float64]:
        """Return the numbers in their original unit, float64 [n, targets]; of levels the nearest one's."""
        values = self._to_unit(self.predict(activated).cpu().numpy())
        return self._level_values[self._nearest(values)][:, None] if self.levels else values

    def decode(self, predicted: Tensor) -> str:
        """Return numbers in their original unit, as `load` reads them; of ordered classes the nearest."""
        values = self._to_unit(predicted.double().cpu().numpy().reshape(1, -1))
        if self.levels:
            return self.levels[int(self._nearest(values)[0])]
        return SEPARATOR.join("" if math.isnan(value) else f"{value:.12g}" for value in values[0])

    def soft_target(self, target: TensorBatch) -> Tensor:
        """Return the targets, float32 [b, targets]; what is not known stays nan, in whatever it is blended with."""
        return _tensor(target).float()

    def statistic(self, activated: TensorBatch, target: TensorBatch) -> Statistics:
        """Return predicted and true numbers in their original unit, structured [b].

        Raises
        ------
        DataError
            If a prediction is not finite.
        """
        outputs, targets = (_tensor(batch).detach().cpu().double().numpy() for batch in (activated, target))
        if outputs.shape != targets.shape or outputs.shape[1:] != (len(self.names),):
            raise ValueError(f"predictions {outputs.shape} are not those of targets {targets.shape}")
        if not np.isfinite(outputs).all():
            raise DataError("the predicted numbers are not finite: the training diverged; try a lower rate")
        half_width = np.array(self.interval if self.interval is not None else [np.nan] * len(self.names))
        statistics: Statistics = np.empty(
            len(targets), dtype=np.dtype([(kind, np.float64, (len(self.names),)) for kind in _FIELDS])
        )
        values = (outputs, targets, outputs - half_width, outputs + half_width)
        for kind, scaled in zip(_FIELDS, values, strict=True):
            statistics[kind] = self._to_unit(scaled)
        return statistics

    def answers(self, statistics: Statistics) -> NDArray[np.float64]:
        """Return the predicted numbers on the scale on which they are learned, [n, targets]."""
        return self._to_outputs(statistics["prediction"])

    def targets(self, statistics: Statistics) -> NDArray[np.float64]:
        """Return the true numbers on the same scale, [n, targets]; nan where one is not known."""
        return self._to_outputs(statistics["target"])

    def agreement(self, answers: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
        """Return by how much each number is off, float64 [n, targets]; nan where that is not known."""
        return np.asarray(answers - targets, dtype=np.float64)

    def agreement_loss(self, agreement: NDArray[Any]) -> NDArray[np.float64]:
        """Return Huber losses, as `loss` has them."""
        errors = np.abs(agreement)
        return np.asarray(np.where(errors <= 1, errors**2 / 2, errors - 0.5))

    def guesses(self, known: Statistics, asked: Statistics) -> list[Statistics]:
        """Return the statistics of always saying the mean, of logarithms where those are predicted, and the median."""
        outputs = self._to_outputs(known["target"])
        guesses = []
        for middle in (np.nanmean(outputs, axis=0), np.nanmedian(outputs, axis=0)):
            guess = asked.copy()
            guess["prediction"] = self._to_unit(middle)
            guess["low"] = guess["high"] = np.nan
            guesses.append(guess)
        return guesses

    def confusion(self, statistics: Statistics) -> NDArray[np.int64] | None:
        """Return how often each level was predicted as which, int64 [true, predicted]; None without levels."""
        if not self.levels:
            return None
        counts = np.zeros((len(self.levels), len(self.levels)), dtype=np.int64)
        np.add.at(counts, (self._nearest(statistics["target"]), self._nearest(statistics["prediction"])), 1)
        return counts

    def labels(self, statistics: Statistics) -> NDArray[np.str_]:
        """Return the true numbers of each sample in words."""
        return np.array([self._words(row) for row in statistics["target"]], dtype=np.str_)

    def cells(self, statistic: Any) -> list[str]:
        """Return the true number, the predicted one, and the ends of its interval; of levels the first two as words."""
        cells = []
        for kind in _CELLS:
            values = np.asarray(statistic[kind])
            if self.levels and kind in ("target", "prediction"):
                cells.append(self._words(values))
            else:
                cells += ["" if math.isnan(value) else f"{value:.6g}" for value in values]
        return cells

    def predicted_cells(self, activated: Tensor) -> list[str]:
        """Return the predicted number, of levels as a word, and the ends of its interval where it has one."""
        words = self.decode(activated)
        ends = () if self.interval is None else self._ends(activated)
        return [*([words] if self.levels else words.split(SEPARATOR)), *(f"{value:.7g}" for value in ends)]

    def predicted_words(self, activated: Tensor) -> str:
        """Return each predicted number with its interval; a level with those that lie in its interval."""
        count, words = len(self.names), self.decode(activated)
        if self.levels:
            return words if self.interval is None else f"{words}  ({self._levels_within(self._ends(activated), words)})"
        numbers = [f"{float(word):,.6g}" for word in words.split(SEPARATOR)]
        if self.interval is not None:
            ends = [f"{value:,.6g}" for value in self._ends(activated)]
            numbers = [f"{numbers[place]}  ({ends[place]} to {ends[count + place]})" for place in range(count)]
        if count > 1:
            numbers = [f"{name} {number}" for name, number in zip(self.names, numbers, strict=True)]
        return ", ".join(numbers)

    def confidence(self, statistics: Statistics) -> None:
        """Return None: a predicted number does not say how sure it is."""

    def strata(self, target: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return in which part of the range of the first number each sample lies, int64 [n].

        Numbers in order are cut where a part has a tenth of the samples, and a few at least, as far as there are as
        many: no part is so rare that it would limit how many folds there can be. Equal numbers, of levels all of a
        level, are in one part; what is not known counts as the highest.
        """
        _, place, sizes = np.unique(target[:, 0], return_inverse=True, return_counts=True)
        enough = max(len(target) / _STRATA, _PER_STRATUM)
        part = np.zeros(len(sizes), dtype=np.int64)
        held, remaining = 0, len(target)
        for index, size in enumerate(sizes[:-1].tolist()):
            held, remaining = held + size, remaining - size
            is_full = held >= enough and remaining >= min(enough, _PER_STRATUM)
            part[index + 1] = part[index] + is_full
            held = 0 if is_full else held
        return np.asarray(part[place.reshape(-1)])

    def weights(self, target: NDArray[np.floating]) -> None:
        """Return None: there are no classes to balance."""

    def calibrated(self, activated: TensorBatch, target: TensorBatch) -> Regression:
        """Return the task with intervals as wide as these predictions, of no test samples, say.

        Split conformal prediction (Lei et al. 2018, "Distribution-free predictive inference for regression", algorithm
        2): of n errors the ceil((n + 1) 0.9)-th by size, or the largest where there are too few.
        """
        errors = (_tensor(activated).double() - _tensor(target).double()).abs().cpu().numpy()
        widths = []
        for column in errors.T:
            known = np.sort(column[~np.isnan(column)])
            if not len(known):
                return self
            rank = -(-(len(known) + 1) * _COVERAGE_IN_PERCENT // 100)  # in whole numbers: 0.9 is not nine tenths
            widths.append(float(known[min(rank, len(known)) - 1]))
        return replace(self, interval=tuple(widths))

    def uncalibrated(self) -> Regression:
        """Return the task, ranked by its own metric, without intervals and the scale of its training samples."""
        count = len(self.names)
        return replace(self, interval=None, mean=(0.0,) * count, scale=(1.0,) * count, primary="")

    def with_primary(self, name: str) -> Regression:
        """Return the task that is ranked by the metric of that name."""
        return replace(self, primary=name)

    def in_units(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers in their original unit, float64 [n, targets]."""
        return self._to_unit(np.asarray(target, dtype=np.float64))

    def scaled_to(self, targets: NDArray[np.floating]) -> Regression:
        """Return the task with the mean and the deviation of these targets, [n, targets], as it loaded them.

        Raises
        ------
        DataError
            If a target is the same for all of them.
        """
        values = np.asarray(targets, dtype=np.float64) * self.scale + self.mean
        mean, deviation = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        constant = [
            name
            for name, center, spread in zip(self.names, mean, deviation, strict=True)
            if not spread > 1e-12 * max(abs(center), 1e-300)
        ]
        if constant:
            raise DataError(f"the target {constant[0]} is the same for all training samples: there is nothing to learn")
        return replace(self, mean=tuple(map(float, mean)), scale=tuple(map(float, deviation)))

    def to_json(self) -> dict[str, Any]:
        """Return all that it is made of; the metric if it is not the task's own."""
        stored: dict[str, Any] = {"name": self.name, "targets": list(self.names)}
        stored |= {"mean": list(self.mean), "scale": list(self.scale), "log": self.log, "levels": list(self.levels)}
        stored |= {} if self.interval is None else {"interval": list(self.interval)}
        return stored if self.primary == self._own_metric else {**stored, "primary": self.primary}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Regression:
        """Return the task that `to_json` wrote.

        Raises
        ------
        DataError
            If something of it is missing.
        """
        try:
            interval = content.get("interval")
            return cls(
                tuple(map(str, content["targets"])),
                tuple(map(float, content["mean"])),
                tuple(map(float, content["scale"])),
                bool(content["log"]),
                tuple(map(str, content["levels"])),
                None if interval is None else tuple(map(float, interval)),
                str(content.get("primary", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the task regression needs targets, mean, scale, log and levels: {error}") from error

    @property
    def _own_metric(self) -> str:
        return "qwk" if self.levels else "r2"

    def _check_levels(self) -> None:
        if not self.levels:
            return
        if len(set(self.levels)) < max(len(self.levels), 2):
            raise DataError(f"ordered classes are two or more, and each is there once: {', '.join(self.levels)}")
        values = self._level_values
        steps = np.diff(values)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise DataError(
                f"the ordered classes {', '.join(self.levels)} are numbers, which are in no order: give the least first"
            )
        if self.log and values.min() <= 0:
            raise DataError("ordered classes have no logarithms: leave out `log_target`")

    def _number(self, word: str) -> float:
        if not word and len(self.names) > 1:
            return math.nan
        if word in self.levels and not self._levels_are_numbers:
            return float(self.levels.index(word))
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if self.levels and value not in self._level_values:
            raise DataError(f"{word!r} is none of {', '.join(self.levels)}")
        if not math.isfinite(value):
            raise DataError(f"{word!r} is not a number")
        return value

    @property
    def _levels_are_numbers(self) -> bool:
        try:
            return all(math.isfinite(float(level)) for level in self.levels)
        except ValueError:
            return False

    @property
    def _level_values(self) -> NDArray[np.float64]:
        words = self.levels
        return np.array([float(word) for word in words] if self._levels_are_numbers else range(len(words)), np.float64)

    def _nearest(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number of the nearest level of numbers [n, 1], [n]."""
        return np.asarray(np.abs(numbers[:, :1] - self._level_values).argmin(axis=1))

    def _words(self, numbers: NDArray[Any]) -> str:
        if self.levels:
            return self.levels[int(self._nearest(numbers.reshape(1, -1))[0])]
        return SEPARATOR.join("" if math.isnan(value) else f"{value:.12g}" for value in numbers)

    def _levels_within(self, ends: Sequence[float], predicted: str) -> str:
        """Return the first and the last level that an interval holds; the predicted one is among them in any case."""
        low, high = ends
        between = [
            level
            for level, value in zip(self.levels, self._level_values, strict=True)
            if low <= value <= high or level == predicted
        ]
        return f"only {predicted}" if len(between) == 1 else f"{between[0]} to {between[-1]}"

    def _to_outputs(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((np.log(numbers) if self.log else numbers) - self.mean) / self.scale)

    def _ends(self, activated: Tensor) -> list[float]:
        """Return the lower ends of the intervals round one sample's outputs, then the upper ones, in the unit."""
        outputs, half_widths = activated.double().cpu().numpy(), np.array(self.interval)
        return [float(end) for sign in (-1, 1) for end in self._to_unit(outputs + sign * half_widths)]

    def _to_unit(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        numbers = outputs * self.scale + self.mean
        return np.asarray(np.exp(numbers) if self.log else numbers)


_FIELDS = ("prediction", "target", "low", "high")
_CELLS = ("target", "prediction", "low", "high")


def _tensor(batch: TensorBatch) -> Tensor:
    if not isinstance(batch, Tensor):
        raise UsageError("numbers of a batch are one tensor, not several")
    return batch

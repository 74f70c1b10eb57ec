"""Heads in closed form: ridge regression on the classes, and the nearest class mean.

Both need only sums over the rows, which are taken block by block, so rows may be larger than memory.

Ridge. With z the scaled rows less their mean, y the targets (1 for the class, -1 for the others) less theirs, and
Z'Z = V e V', the coefficients for every penalty p come from one decomposition: W(p) = V (V'Z'y / (e + p)). So do the
predictions for rows that were left out one at a time: with a = V'z and the leverage h = 1/n + sum of a_j^2 / (e_j + p),
the residual without the row is the residual divided by 1 - h (Allen's PRESS; Golub, Heath & Wahba 1979). One pass over
the rows gives it for all penalties, and no fold has to be fitted. The idea of scoring all penalties from one
decomposition is that of big_vision's few-shot evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from stages.fitting.calibration import fit_temperature
from stages.fitting.fitted import Fitted
from stages.fitting.linear import ABSENT
from stages.fitting.protocol import Protocol, balanced_weights
from stages.fitting.rows import AnyRows, Rows, together
from stages.fitting.scaling import Scaling, deviation
from stages.fitting.scoring import logits, score_of
from stages.network.heads import LinearHead

PENALTIES_PER_STEP = 3
"""Penalties tried for each value of C that is given: the ones between cost nothing."""


@dataclass
class Sums:
    """What a closed fit needs of rows: weighted sums, over rows less `centre` (and, for l2, at length 1).

    Attributes
    ----------
    total : ndarray of float64 [d]
    products : ndarray of float64 [d, d]
    by_class : ndarray of float64 [classes, d]
    class_weight : ndarray of float64 [classes]
    centre : ndarray of float32 [d]
    l2 : bool
    """

    total: NDArray[np.float64]
    products: NDArray[np.float64]
    by_class: NDArray[np.float64]
    class_weight: NDArray[np.float64]
    centre: NDArray[np.float32]
    l2: bool

    @classmethod
    def of(
        cls,
        rows: AnyRows,
        num_classes: int,
        weights: NDArray[np.float32],
        centre: NDArray[np.float32],
        *,
        l2: bool,
    ) -> Sums:
        """Return the sums over rows with their weights, float32 [n]."""
        width = len(centre)
        square, of_classes = np.zeros((width, width)), np.zeros((num_classes, width))
        sums = cls(np.zeros(width), square, of_classes, np.zeros(num_classes), centre, l2)
        for places, block in _prepared(rows, centre, l2):
            weight, labels = torch.from_numpy(weights[places]), torch.from_numpy(rows.labels[places])
            weighted = block * weight[:, None]
            sums.total += weighted.double().sum(dim=0).numpy()
            sums.products += (weighted.T @ block).double().numpy()
            of_class = torch.zeros(num_classes, width).index_add_(0, labels, weighted)
            sums.by_class += of_class.double().numpy()
            sums.class_weight += np.bincount(rows.labels[places], weights[places], num_classes)
        return sums

    @property
    def weight(self) -> float:
        """Sum of the rows' weights."""
        return float(self.class_weight.sum())

    def standardisation(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean of the rows (less the centre, or at length 1) and their standard deviation, [d]."""
        mean = self.total / self.weight
        return mean, deviation(self.products.diagonal() / self.weight - mean**2, mean + self.centre)

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return self._with(other, 1.0)

    def __sub__(self, other: Sums) -> Sums:
        """Return the sums over the rows that `other` lacks."""
        return self._with(other, -1.0)

    def _with(self, other: Sums, sign: float) -> Sums:
        return Sums(
            self.total + sign * other.total,
            self.products + sign * other.products,
            self.by_class + sign * other.by_class,
            self.class_weight + sign * other.class_weight,
            self.centre,
            self.l2,
        )


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on the classes, decomposed: every penalty is a division away.

    Attributes
    ----------
    vectors, values : ndarray of float64 [d, r] and [r]
        Eigenvectors and eigenvalues of Z'Z.
    projected : ndarray of float64 [r, classes]
        V'Z'y.
    mean, scale : ndarray of float64 [d]
        z = (x - centre - mean) / scale for rows x as they are cached.
    target_mean : ndarray of float64 [classes]
    weight : float
        Sum of the rows' weights.
    """

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    projected: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    target_mean: NDArray[np.float64]
    weight: float
    sums: Sums

    @classmethod
    def fit(cls, sums: Sums, scaling: Scaling) -> Ridge:
        """Decompose the rows that were summed."""
        mean, scale = sums.standardisation()
        covariance = sums.products - np.outer(mean, sums.total)
        if scaling == "standard":
            covariance = covariance / scale / scale[:, None]
        else:
            scale = np.ones_like(mean)
        values, vectors = eigh(covariance, overwrite_a=True, check_finite=False)
        target_mean = 2 * sums.class_weight / sums.weight - 1
        # Z'y for targets 2 [class] - 1: the constant drops out, since the rows are centred
        products = 2 * (sums.by_class - np.outer(sums.class_weight, mean)) / scale
        return cls(vectors, np.maximum(values, 0), vectors.T @ products.T, mean, scale, target_mean, sums.weight, sums)

    def coefficients(self, penalty: float) -> NDArray[np.float64]:
        """Return the coefficients for scaled rows, [d, classes]."""
        return np.asarray(self.vectors @ (self.projected / (self.values[:, None] + penalty)))

    def head(self, penalty: float, temperature: float = 1.0) -> LinearHead:
        """Return scaling and model as one linear head."""
        weight, bias = self.coefficients(penalty).T / temperature, self.target_mean / temperature
        bias = np.where(self.sums.class_weight > 0, bias, ABSENT)
        if self.sums.l2:  # the mean is that of rows of length 1, which the head makes itself
            return LinearHead.from_coefficients(weight, bias, self.mean, None, l2=True)
        return LinearHead.from_coefficients(weight, bias, self.mean + self.sums.centre, self.scale)

    def predictions(
        self, rows: AnyRows, penalties: Sequence[float], left_out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the predicted targets, float32 [penalties, n, classes].

        Parameters
        ----------
        left_out : ndarray of float32 [n], optional
            Weights with which these very rows were fitted: each is then predicted as if it had been left out.
        """
        found = np.empty((len(penalties), len(rows), len(self.target_mean)), dtype=np.float32)
        basis = torch.from_numpy((self.vectors / self.scale[:, None]).astype(np.float32))
        shift = torch.from_numpy(self.mean.astype(np.float32)) @ basis
        inverse = (1 / (self.values[:, None] + np.array(penalties))).astype(np.float32)
        solutions = (self.projected[:, None, :] * inverse[:, :, None]).astype(np.float32)
        joined, offset = torch.from_numpy(solutions.reshape(len(solutions), -1)), torch.from_numpy(self.target_mean)
        for places, block in _prepared(rows, self.sums.centre, self.sums.l2):
            along = block @ basis - shift
            predicted = (along @ joined).view(len(along), len(penalties), -1) + offset.float()
            if left_out is not None:
                leverage = along.square_() @ torch.from_numpy(inverse) + 1 / self.weight
                leverage *= torch.from_numpy(left_out[places])[:, None]
                targets = _targets(rows.labels[places], len(self.target_mean))[:, None]
                predicted = targets - (targets - predicted) / (1 - leverage).clamp_min(1e-6)[:, :, None]
            found[:, places] = predicted.transpose(0, 1).numpy()
        return found


def fit_ridge(
    train: AnyRows,
    val: AnyRows,
    values: Sequence[float],
    scalings: Sequence[Scaling],
    num_classes: int,
    scoring: Protocol,
    *,
    balanced: bool,
) -> Fitted:
    """Return the ridge head whose scaling and penalty, 1 / (2 C) as scikit-learn counts it, score best.

    Each row is scored as if it had been left out; or the validation split is, or groups, where `scoring` says so.
    """
    penalties = _penalties(values)
    scored = val if scoring.holds_out else together(train, val)
    weights = _weights(np.concatenate([train.labels, val.labels]), balanced)
    of_each = weights[: len(train)], weights[len(train) :]
    tried: list[dict[str, Any]] = []
    margins: list[NDArray[np.float32]] = []
    sums: dict[Scaling, tuple[Sums, Sums]] = {}
    centre = _centre(train)
    for scaling in scalings:
        shared = sums.get("none") or sums.get("standard")  # their sums are the same
        if scaling == "l2" or shared is None:
            of_train, of_val = (
                Sums.of(rows, num_classes, weight, centre, l2=scaling == "l2")
                for rows, weight in zip((train, val), of_each, strict=True)
            )
            shared = of_train, of_val
        sums[scaling] = shared
        of_penalties = _margins(*shared, scaling, penalties, scored, weights, scoring)
        for penalty, found in zip(penalties, of_penalties, strict=True):
            score = score_of(found, scored.labels, balanced)
            tried.append({"C": 1 / (2 * penalty), "scaler": scaling, "score": score})
            margins.append(found)
    top = max(range(len(tried)), key=lambda number: (tried[number]["score"], -tried[number]["C"]))
    scaling, penalty = tried[top]["scaler"], 1 / (2 * tried[top]["C"])
    temperature = fit_temperature(margins[top], scored.labels)
    of_train, of_val = sums[scaling]
    head, without_val = (Ridge.fit(of, scaling).head(penalty, temperature) for of in (of_train + of_val, of_train))
    words = "leave-one-out on train+val" if _leaves_one_out(scored, scoring) else scoring.words
    return Fitted(head, without_val, {**tried[top], "selected by": words, "temperature": temperature}, tried)


def _leaves_one_out(scored: AnyRows, scoring: Protocol) -> bool:
    """Return whether rows can be left out one by one: not where groups must be left out whole."""
    return not scoring.holds_out and isinstance(scored, Rows) and scored.groups is None


def _margins(
    of_train: Sums,
    of_val: Sums,
    scaling: Scaling,
    penalties: Sequence[float],
    scored: AnyRows,
    weights: NDArray[np.float32],
    scoring: Protocol,
) -> NDArray[np.float32]:
    """Return the predictions, float32 [penalties, n, classes], for rows that each of them was not fitted to."""
    if scoring.holds_out:
        return Ridge.fit(of_train, scaling).predictions(scored, penalties)
    assert isinstance(scored, Rows)
    if _leaves_one_out(scored, scoring):
        return Ridge.fit(of_train + of_val, scaling).predictions(scored, penalties, left_out=weights)
    classes = len(of_train.class_weight)
    found = np.empty((len(penalties), len(scored), classes), dtype=np.float32)
    for _, fold in scoring.pairs:
        some = Rows(scored.features[fold], scored.labels[fold])
        of_fold = Sums.of(some, classes, weights[fold], of_train.centre, l2=of_train.l2)
        found[:, fold] = Ridge.fit(of_train + of_val - of_fold, scaling).predictions(some, penalties)
    return found


def fit_nearest_mean(
    train: AnyRows, val: AnyRows, scalings: Sequence[Scaling], num_classes: int, *, balanced: bool
) -> Fitted:
    """Return the head of nearest class means: the scores z.m - |m|^2 / 2 order classes by the distance to their mean m.

    The scaling is chosen on the validation split: there is nothing else to choose.
    """
    centre = _centre(train)
    tried, fitted = [], []
    for scaling in scalings:
        of_train, of_val = (
            Sums.of(rows, num_classes, np.ones(len(rows), np.float32), centre, l2=scaling == "l2")
            for rows in (train, val)
        )
        margins = logits(_means_head(of_train, scaling, 1.0), val)
        tried.append({"scaler": scaling, "score": score_of(margins, val.labels, balanced)})
        fitted.append((of_train, of_val, margins))
    top = max(range(len(tried)), key=lambda number: tried[number]["score"])
    of_train, of_val, margins = fitted[top]
    temperature = fit_temperature(margins, val.labels)
    head, without_val = (_means_head(sums, scalings[top], temperature) for sums in (of_train + of_val, of_train))
    settings = {**tried[top], "selected by": "validation split", "temperature": temperature}
    return Fitted(head, without_val, settings, tried)


def _means_head(sums: Sums, scaling: Scaling, temperature: float) -> LinearHead:
    mean, scale = sums.standardisation() if scaling == "standard" else (np.zeros_like(sums.total), None)
    counts = sums.class_weight[:, None]
    means = np.divide(sums.by_class, counts, out=np.zeros_like(sums.by_class), where=counts > 0) - mean
    means = means if scale is None else means / scale
    bias = np.where(sums.class_weight > 0, -(means**2).sum(axis=1) / 2 / temperature, ABSENT)
    origin = mean if sums.l2 else mean + sums.centre
    return LinearHead.from_coefficients(means / temperature, bias, origin, scale, l2=sums.l2)


def _prepared(rows: AnyRows, centre: NDArray[np.float32], l2: bool) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Yield the rows as they are summed, float32 [b, d]: of length 1, or less the centre."""
    for places, block in rows.blocks():
        values = torch.from_numpy(block).float()
        yield places, (torch.nn.functional.normalize(values) if l2 else values - torch.from_numpy(centre))


def _centre(rows: AnyRows) -> NDArray[np.float32]:
    """Return the mean of the first block of rows, float32 [d]: near enough to the mean to keep sums small."""
    _, block = next(rows.blocks())
    return np.asarray(torch.from_numpy(block).float().mean(dim=0).numpy())


def _weights(labels: NDArray[np.int64], balanced: bool) -> NDArray[np.float32]:
    return balanced_weights(labels) if balanced else np.ones(len(labels), dtype=np.float32)


def _penalties(values: Sequence[float]) -> list[float]:
    """Return the penalties of the values of C and of some between them, the largest first."""
    ordered = np.log(np.array(sorted(values)))
    steps = np.linspace(0, len(ordered) - 1, PENALTIES_PER_STEP * (len(ordered) - 1) + 1)
    return [float(1 / (2 * c)) for c in np.exp(np.interp(steps, np.arange(len(ordered)), ordered))]


def _targets(labels: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return 1 for the class of a row and -1 for the others, float32 [n, classes]."""
    targets = torch.full((len(labels), num_classes), -1.0)
    return targets.scatter_(1, torch.from_numpy(labels)[:, None], 1.0)

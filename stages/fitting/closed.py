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
from stages.fitting.linear import ABSENT, Scaling
from stages.fitting.protocol import Protocol, balanced_weights
from stages.fitting.rows import AnyRows, Rows, in_memory
from stages.fitting.search import score_of
from stages.network.heads import LinearHead

PENALTIES_PER_STEP = 3
"""Penalties tried for each value of C that is given: the ones between cost nothing."""


@dataclass
class Sums:
    """What a closed fit needs of rows: weighted sums, over rows less `centre` (and, for l2, at length 1).

    Attributes
    ----------
    weight : float
        Sum of the rows' weights.
    total : ndarray of float64 [d]
    products : ndarray of float64 [d, d]
    by_class : ndarray of float64 [classes, d]
    class_weight : ndarray of float64 [classes]
    centre : ndarray of float32 [d]
    l2 : bool
    """

    weight: float
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
        sums = cls(
            0.0,
            np.zeros(width),
            np.zeros((width, width)),
            np.zeros((num_classes, width)),
            np.zeros(num_classes),
            centre,
            l2,
        )
        for places, block in _prepared(rows, centre, l2):
            weight, labels = torch.from_numpy(weights[places]), torch.from_numpy(rows.labels[places])
            weighted = block * weight[:, None]
            sums.weight += float(weight.double().sum())
            sums.total += weighted.double().sum(dim=0).numpy()
            sums.products += (weighted.T @ block).double().numpy()
            of_class = torch.zeros(num_classes, width).index_add_(0, labels, weighted)
            sums.by_class += of_class.double().numpy()
            sums.class_weight += np.bincount(rows.labels[places], weights[places], num_classes)
        return sums

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return self._with(other, 1.0)

    def __sub__(self, other: Sums) -> Sums:
        """Return the sums over the rows that `other` lacks."""
        return self._with(other, -1.0)

    def _with(self, other: Sums, sign: float) -> Sums:
        return Sums(
            self.weight + sign * other.weight,
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
        mean = sums.total / sums.weight
        covariance = sums.products - np.outer(mean, sums.total)
        scale = np.ones_like(mean)
        if scaling == "standard":
            variance = covariance.diagonal() / sums.weight
            constant = variance <= (1e-6 * np.abs(mean + sums.centre)) ** 2
            scale = np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0)))
            covariance = covariance / scale / scale[:, None]
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


@dataclass(frozen=True)
class ClosedFit:
    """A head in closed form with all that was tried."""

    head: LinearHead
    head_without_val: LinearHead
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]
    temperature: float
    protocol: str


def fit_ridge(
    train: AnyRows,
    val: AnyRows,
    values: Sequence[float],
    scalings: Sequence[Scaling],
    num_classes: int,
    scoring: Protocol,
    *,
    balanced: bool,
) -> ClosedFit:
    """Return the ridge head whose scaling and penalty, 1 / (2 C) as scikit-learn counts it, score best.

    Each row is scored as if it had been left out; or the validation split is, or groups, where `scoring` says so.
    """
    penalties = _penalties(values)
    weights, val_weights = _weights(train, balanced), _weights(val, balanced)
    both = None if scoring.holds_out else in_memory("ridge", train) + in_memory("ridge", val)
    labels = val.labels if both is None else both.labels
    leave_one_out = both is not None and both.groups is None
    tried: list[dict[str, Any]] = []
    best: tuple[float, int, NDArray[np.float32], Sums, Sums] | None = None
    centre = _centre(train)
    of_raw: tuple[Sums, Sums] | None = None
    for scaling in scalings:
        l2 = scaling == "l2"
        if l2 or of_raw is None:
            of_train = Sums.of(train, num_classes, weights, centre, l2=l2)
            of_val = Sums.of(val, num_classes, val_weights, centre, l2=l2)
            of_raw = of_raw if l2 else (of_train, of_val)
        else:
            of_train, of_val = of_raw
        if scoring.holds_out:
            margins = Ridge.fit(of_train, scaling).predictions(val, penalties)
        elif leave_one_out:
            assert both is not None
            margins = Ridge.fit(of_train + of_val, scaling).predictions(
                both, penalties, left_out=np.concatenate([weights, val_weights])
            )
        else:
            assert both is not None
            whole, of_each = of_train + of_val, np.concatenate([weights, val_weights])
            margins = np.empty((len(penalties), len(labels), num_classes), dtype=np.float32)
            for _, scored in scoring.pairs:
                assert not isinstance(scored, slice)
                some = Rows(both.features[scored], labels[scored])
                without = whole - Sums.of(some, num_classes, of_each[scored], centre, l2=l2)
                margins[:, scored] = Ridge.fit(without, scaling).predictions(some, penalties)
        scores = [score_of(one, labels, balanced) for one in margins]
        tried += [
            {"C": 1 / (2 * penalty), "scaler": scaling, "score": score}
            for penalty, score in zip(penalties, scores, strict=True)
        ]
        top = int(np.argmax(scores))  # of equals the first: the largest penalty
        if best is None or scores[top] > best[0]:
            best = scores[top], len(tried) - len(penalties) + top, margins[top], of_train, of_val
    assert best is not None
    chosen = tried[best[1]]
    penalty = 1 / (2 * chosen["C"])
    temperature = fit_temperature(best[2], labels)
    words = "leave-one-out on train+val" if leave_one_out else scoring.words
    head = Ridge.fit(best[3] + best[4], chosen["scaler"]).head(penalty, temperature)
    without_val = Ridge.fit(best[3], chosen["scaler"]).head(penalty, temperature)
    return ClosedFit(head, without_val, chosen, tried, temperature, words)


def fit_nearest_mean(
    train: AnyRows, val: AnyRows, scalings: Sequence[Scaling], num_classes: int, *, balanced: bool
) -> ClosedFit:
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
        without_val = _means_head(of_train, scaling, 1.0)
        margins = np.concatenate(
            [without_val(torch.from_numpy(block).float()).detach().numpy() for _, block in val.blocks()]
        )
        tried.append({"scaler": scaling, "score": score_of(margins, val.labels, balanced)})
        fitted.append((of_train, of_val, margins))
    top = max(range(len(tried)), key=lambda number: tried[number]["score"])
    of_train, of_val, margins = fitted[top]
    temperature = fit_temperature(margins, val.labels)
    scaling = scalings[top]
    head, without_val = (_means_head(sums, scaling, temperature) for sums in (of_train + of_val, of_train))
    return ClosedFit(head, without_val, tried[top], tried, temperature, "validation split")


def _means_head(sums: Sums, scaling: Scaling, temperature: float) -> LinearHead:
    mean, scale = np.zeros_like(sums.total), np.ones_like(sums.total)
    if scaling == "standard":
        mean = sums.total / sums.weight
        variance = sums.products.diagonal() / sums.weight - mean**2
        constant = variance <= (1e-6 * np.abs(mean + sums.centre)) ** 2
        scale = np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0)))
    counts = sums.class_weight[:, None]
    means = (np.divide(sums.by_class, counts, out=np.zeros_like(sums.by_class), where=counts > 0) - mean) / scale
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


def _weights(rows: AnyRows, balanced: bool) -> NDArray[np.float32]:
    return balanced_weights(rows.labels) if balanced else np.ones(len(rows), dtype=np.float32)


def _penalties(values: Sequence[float]) -> list[float]:
    """Return the penalties of the values of C and of some between them, the largest first."""
    ordered = np.log(np.array(sorted(values)))
    steps = np.linspace(0, len(ordered) - 1, PENALTIES_PER_STEP * (len(ordered) - 1) + 1)
    return [float(1 / (2 * c)) for c in np.exp(np.interp(steps, np.arange(len(ordered)), ordered))]


def _targets(labels: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return 1 for the class of a row and -1 for the others, float32 [n, classes]."""
    targets = torch.full((len(labels), num_classes), -1.0)
    return targets.scatter_(1, torch.from_numpy(labels)[:, None], 1.0)

"""Rows of many numbers as coordinates in the span of some of them, their products being the same.

Of fewer rows than numbers nothing counts but the products of rows: ridge, logistic regression and linear support vector
machines are penalized by |W|^2, so their weights are sums of rows (the representer theorem; Schoelkopf, Herbrich and
Smola 2001, "A Generalized Representer Theorem", section 3), and radial kernels and neighbors see distances alone. With
the standardized rows Z, each of whose blocks has a weight w, the products are K = sum over blocks of w^2 Z_b Z_b'; and
with K = L L' (Cholesky) the rows of the triangle L, n numbers in place of d, have the same products. So a search
over C, folds and kinds of heads runs on L, and what is summed per block is taken once for all depth sets and weightings
that the block is in. Weights V on L are V L^-1 Z on rows.

What begins with a linear layer and is trained in epochs is no sum of rows, but of fewer numbers an epoch is the
shorter, and what lies outside of the span of all rows tells it nothing. Only, its optimizer (AdamW) goes by each number
alone, and those of a triangle count for very different shares of a row: so it is shown the coordinates along other axes
of the span, drawn at random (`Coordinates.spread`).

Of more rows than `EXACT_UP_TO`, some are drawn as landmarks M, and a row z becomes L^-1 M z with M M' = L L': its
coordinates in their span (Nystroem's method for the linear kernel; Williams and Seeger 2001, "Using the Nystroem Method
to Speed Up Kernel Machines"). Rows are gone through once, block by block, so they may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from scipy.linalg import solve_triangular
from torch import nn

from cache.errors import DataError
from stages.config.heads import BlockWeight
from stages.fitting.feature_rows import AnyFeatureRows, StreamedFeatureRows
from stages.fitting.standardize import NOISE, Standardizer
from stages.network.heads.base import Head
from stages.network.heads.blocks import weigh_blocks
from stages.network.heads.depths import ColumnsHead, ProjectedHead
from stages.network.heads.knn import KNNHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.rbf import RBFHead
from stages.network.heads.registry import unfilled_head
from stages.runtime.products import linear, product

EXACT_UP_TO = 4000
"""Rows up to which all are landmarks: the triangle takes the third power of them."""

SQUARED_LENGTH = 1000.0
"""Mean squared length of a row, about that of standardized features of one cut: for these the values of C are."""

_JITTERS = (1e-5, 1e-4, 1e-3, 1e-2)
"""What is added to the diagonal, of its mean, since products in float32 are not exact: the least that is enough. Rows
that are equal, or far longer than others, leave less of what tells them apart."""

_Piece = tuple[tuple[int, ...], int]
"""Blocks that are in the same sets and of one width: the sets, and the width."""

_Numbers = dict[_Piece, torch.Tensor]
"""Standardized numbers of each piece, float32 [rows, d]."""

_CHUNK = 1024
"""Rows that are standardized at a time, at most."""

_NUMBERED = 32
"""Rows of a support that are copied at a time: of so few the copy stays in a cache."""

_KEPT_BYTES = 512 << 20
"""Most bytes of standardized rows that are kept."""

_TRIANGLE_CHUNK = 256
"""Rows whose products are summed at a time where one triangle of them is."""


POWERS: Mapping[BlockWeight, float] = {"dim": 0.0, "sqrt": 0.25, "equal": 0.5}
"""A block of d standardized numbers is multiplied by d to the power of minus this."""


def landmarks_of(count: int, most: int, *, streamed: bool = False) -> int:
    """Return how many of some rows are landmarks: all that a triangle is exact for, else at most so many.

    Of rows that are `streamed` at most so many in any case, as landmarks are in memory.
    """
    return count if count <= EXACT_UP_TO and not streamed else min(most, count)


@dataclass(frozen=True)
class DepthChoice:
    """Some of the blocks of a row, and how they are weighted.

    Attributes
    ----------
    depths : str
        What the set of blocks is called.
    names : tuple of str
        The blocks.
    weighting : {"dim", "sqrt", "equal"}
    """

    depths: str
    names: tuple[str, ...]
    weighting: BlockWeight


class BlockRows:
    """Rows of train, followed by those of validation, made of named blocks; each number is standardized on all.

    Mean and standard deviation are no labels: of rows that are left out of a fit they are known too, so that one matrix
    serves all folds.

    Parameters
    ----------
    train, val : FeatureRows or StreamedFeatureRows
    widths : mapping of str to int
        Of the blocks, in the order in which they stand in a row.
    landmarks : int
        How many are drawn where there are more rows than `EXACT_UP_TO`, or, of streamed rows, more than these.
    seed : int
        By which they are drawn.
    sets : collection of tuple of str, optional
        All sets of blocks that may be asked for, now or later: then products have the same bits whichever of them are
        asked for together.
    """

    def __init__(
        self,
        train: AnyFeatureRows,
        val: AnyFeatureRows,
        widths: Mapping[str, int],
        landmarks: int,
        seed: int,
        sets: Collection[tuple[str, ...]] = (),
    ) -> None:
        self.parts, self.count, self.widths = (train, val), len(train) + len(val), dict(widths)
        self.sets = tuple(sets)
        stops = np.cumsum(list(widths.values())).tolist()
        self.width = stops[-1]
        self.slices = {
            name: slice(stop - width, stop) for (name, width), stop in zip(widths.items(), stops, strict=True)
        }
        self.at_a_time = _CHUNK
        if isinstance(train, StreamedFeatureRows):  # standardized, and again as pieces: a quarter of what rows may take
            self.at_a_time = min(max(train.memory_bytes // 4 // (2 * 4 * self.width), 1), _CHUNK)
        number = landmarks_of(self.count, landmarks, streamed=isinstance(train, StreamedFeatureRows))
        self.exact = number == self.count <= EXACT_UP_TO
        drawn = np.arange(self.count)
        if not self.exact:
            drawn = np.random.default_rng(seed).choice(self.count, number, replace=False)
        self.landmarks = np.sort(drawn)
        standardizer = Standardizer()
        for part in self.parts:
            for _, block in part.blocks():
                standardizer.partial_fit(torch.from_numpy(block))
        self.mean, scale = standardizer.moments
        self.scale = self._above_rounding(scale)

    def coordinates(self, choices: Sequence[DepthChoice]) -> Iterator[Coordinates]:
        """Yield what all rows are under each choice; rows are gone through once for those that need products."""
        wide = [choice for choice in choices if self._width_of(choice.names) > len(self.landmarks)]
        products = self._products(wide)
        for choice in choices:
            yield self._in_span(choice, products.pop(choice)) if choice in products else self.numbers(choice)

    def bytes_of(self, choices: Sequence[DepthChoice]) -> int:
        """Return the bytes that the coordinates of some choices take, all at once, with the triangles of landmarks."""
        landmarks = len(self.landmarks)
        widths = [self._width_of(choice.names) for choice in choices]
        return sum(4 * self.count * min(width, landmarks) + 8 * landmarks**2 * (width > landmarks) for width in widths)

    def ranges(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return where some blocks stand in a row, in its order, neighbors joined."""
        ranges: list[tuple[int, int]] = []
        for part in (self.slices[name] for name in self.widths if name in set(names)):
            if ranges and ranges[-1][1] == part.start:
                ranges[-1] = ranges[-1][0], part.stop
            else:
                ranges.append((part.start, part.stop))
        return ranges

    def picked(self, rows: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return the numbers of some blocks, [..., d], of rows [..., D], not to be written to."""
        parts = [rows[..., start:stop] for start, stop in self.ranges(names)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def factor(self, choice: DepthChoice) -> torch.Tensor:
        """Return what the standardized numbers of a choice are multiplied by, [d], for rows of one length."""
        weights = torch.ones(self.width)
        for name in choice.names:
            weights[self.slices[name]] = self.widths[name] ** -POWERS[choice.weighting]
        picked = self.picked(weights, choice.names)
        scale: float = (SQUARED_LENGTH / float(picked.square().sum())) ** 0.5
        return picked * scale

    def numbers(self, choice: DepthChoice, squared_length: float = SQUARED_LENGTH) -> Coordinates:
        """Return what rows are under a choice, number by number, rows having this squared length in the mean."""
        factor = self.factor(choice) * (squared_length / SQUARED_LENGTH) ** 0.5
        values = torch.empty(self.count, len(factor))
        for part, rows in self._standardized():
            torch.mul(self.picked(rows, choice.names), factor, out=values[part])
        return Coordinates(self, choice, factor, values.numpy(), None)

    def rows_at(self, places: NDArray[np.int64]) -> torch.Tensor:
        """Return some rows, standardized, float32 [m, D], not to be written to; the places are in order."""
        if self._kept is not None:
            return self._kept if len(places) == self.count else self._kept[places]
        found = torch.empty(len(places), self.width)
        for part, rows in self.chunks_at(places):
            found[part] = rows
        return found

    def chunks_at(self, places: NDArray[np.int64], at_a_time: int = _CHUNK) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield some rows in order, standardized, float32 [b, D], and at which of the places; not to be written to."""
        if self._kept is not None:
            for first in range(0, len(places), at_a_time):
                part = slice(first, min(first + at_a_time, len(places)))
                yield part, self._kept[part if len(places) == self.count else places[part]]
            return
        for start, block in self._stored():
            first, last = np.searchsorted(places, [start, start + len(block)])
            if last > first:
                yield slice(first, last), self._scaled(block[places[first:last] - start])

    @cached_property
    def _kept(self) -> torch.Tensor | None:
        """All rows, standardized, where they are few: each head that becomes one on rows goes through them twice."""
        if not self.exact or 4 * self.count * self.width > _KEPT_BYTES:
            return None
        kept = torch.empty(self.count, self.width)
        for start, block in self._stored():
            kept[start : start + len(block)] = self._scaled(block)
        return kept

    def _above_rounding(self, scale: torch.Tensor) -> torch.Tensor:
        """Return what numbers are divided by, [D]: 1 where one varies by no more than the numbers of its layer round.

        The deviation within a map that is the same everywhere is such a number. Beside its own mean, which is as small,
        it varies well; divided by its standard deviation, it would be as large as any other, and another one in each
        library that computes the network.
        """
        scale, layers = scale.clone(), dict[tuple[str, int], list[slice]]()
        for name, part in self.slices.items():
            layers.setdefault((name.rpartition(":")[0] or name, self.widths[name]), []).append(part)
        for parts in layers.values():
            largest = torch.stack([self.mean[part].abs() for part in parts]).amax(dim=0)
            for part in parts:
                scale[part] = scale[part].where(scale[part] > NOISE * largest, 1.0)
        return scale

    def _width_of(self, names: Sequence[str]) -> int:
        return sum(self.widths[name] for name in names)

    def _standardized(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield all rows in order, some at a time, float32 [b, D], and which they are."""
        for start, block in self._stored():
            yield slice(start, start + len(block)), self._scaled(block)

    def _scaled(self, block: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(block).to(torch.float32, copy=True).sub_(self.mean).div_(self.scale)

    def _stored(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all rows as they are cached, some at a time, and how many stand before them."""
        start = 0
        for part in self.parts:
            for _, block in part.blocks():
                for first in range(0, len(block), self.at_a_time):
                    yield start + first, block[first : first + self.at_a_time]
                start += len(block)

    def _products(self, choices: Sequence[DepthChoice]) -> dict[DepthChoice, torch.Tensor]:
        """Return the products of all rows with the landmarks, float32 [n, m]; of all rows with all, the lower triangle.

        Blocks that are in the same choices are summed once for all of them, with each weighting.
        """
        if not choices:
            return {}
        weightings = list(dict.fromkeys(choice.weighting for choice in choices))
        sets = list(dict.fromkeys([*self.sets, *(choice.names for choice in choices)]))
        wanted = {name for choice in choices for name in choice.names}
        layers = {
            name: tuple(number for number, names in enumerate(sets) if name in names)
            for name in self.widths
            if name in wanted
        }
        summed = {
            (layer, weighting): torch.zeros(self.count, len(self.landmarks))
            for layer in dict.fromkeys(layers.values())
            for weighting in weightings
        }
        pieces: dict[_Piece, list[str]] = {}  # blocks that count the same in every sum, as one
        for name, layer in layers.items():
            pieces.setdefault((layer, self.widths[name]), []).append(name)
        for part, ours, theirs in self._side_by_side(pieces):
            for (layer, width), rows in ours.items():
                landmarks = theirs[layer, width]
                gram = linear(rows, landmarks)
                for weighting in weightings:
                    total = summed[layer, weighting][part, : len(landmarks)]
                    total.add_(gram, alpha=width ** (-2 * POWERS[weighting]))
        products = {}
        for choice in choices:
            first, *others = [
                total
                for (layer, weighting), total in summed.items()
                if sets.index(choice.names) in layer and weighting == choice.weighting
            ]
            products[choice] = first if len(choices) == 1 else first.clone()  # layers are of no further use to one
            for other in others:
                products[choice] += other
        return products

    def _side_by_side(self, pieces: Mapping[_Piece, Sequence[str]]) -> Iterator[tuple[slice, _Numbers, _Numbers]]:
        """Yield all rows in order, some at a time: which they are, their pieces, and those of the landmarks.

        Where all rows are landmarks, of those only the rows up to the last of each part: the products are a triangle.
        """
        landmarks = self.rows_at(self.landmarks)
        theirs = {piece: self.picked(landmarks, names) for piece, names in pieces.items()}
        del landmarks  # a copy, where rows are not kept
        if not self.exact:
            for part, rows in self._standardized():
                yield part, {piece: self.picked(rows, names) for piece, names in pieces.items()}, theirs
            return
        for start in range(0, self.count, _TRIANGLE_CHUNK):
            part = slice(start, min(start + _TRIANGLE_CHUNK, self.count))
            up_to = {piece: numbers[: part.stop] for piece, numbers in theirs.items()}
            yield part, {piece: numbers[start:] for piece, numbers in up_to.items()}, up_to

    def _in_span(self, choice: DepthChoice, products: torch.Tensor) -> Coordinates:
        widths = np.array([self.widths[name] for name in choice.names], dtype=np.float64)
        products *= SQUARED_LENGTH / float((widths ** (1 - 2 * POWERS[choice.weighting])).sum())
        factor = self.factor(choice)
        triangle = _triangle(products[torch.from_numpy(self.landmarks)].double().numpy())
        if self.exact:
            values = triangle.astype(np.float32) if products.any() else np.zeros(triangle.shape, np.float32)
            return Coordinates(self, choice, factor, values, triangle)
        values = np.empty(products.shape, np.float32)
        for start in range(0, len(products), _CHUNK):
            part = products[start : start + _CHUNK].double().numpy()
            values[start : start + _CHUNK] = solve_triangular(triangle, part.T, lower=True, check_finite=False).T
        return Coordinates(self, choice, factor, values, triangle)


def _triangle(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return L of L L' = products, [m, m], that are not exact and may be those of equal rows.

    Of rows that are all alike, and so zeros, whatever is L it is of no use to them: here it is the unit matrix.

    Raises
    ------
    DataError
        If rows are so far from each other in length that nothing tells the short ones apart.
    """
    mean = np.trace(products) / len(products)
    if not mean:
        return np.eye(len(products))
    for jitter in _JITTERS:
        raised = torch.from_numpy(products.copy())
        raised.diagonal().add_(jitter * mean)
        triangle, failed = torch.linalg.cholesky_ex(raised)
        if not failed:
            return np.ascontiguousarray(triangle.numpy())  # row by row, as rows are taken
    raise DataError(
        "features of several depths cannot be told apart in 32 bits: some rows are thousands of times as long as the "
        "rest; `depths` last alone may do"
    )


@dataclass(frozen=True)
class Axes:
    """Orthogonal axes, at random: signs are drawn and a cosine transform spreads each number over all.

    So no matrix is kept, and none multiplied, as in the randomized Hadamard transform (Ailon and Chazelle 2006,
    "Approximate Nearest Neighbors and the Fast Johnson-Lindenstrauss Transform", section 3).

    Attributes
    ----------
    signs : ndarray of float32 [r]
    scale : float
        What coordinates are multiplied by.
    """

    signs: NDArray[np.float32]
    scale: float

    def along(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return rows as coordinates along the axes, [b, r] -> [b, r], multiplied by the scale."""
        spread: NDArray[np.floating] = dct(values * self.signs, axis=1, norm="ortho")
        return spread * self.scale

    def back(self, weights: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return what weights of such coordinates, [k, r], are as weights of the values that these were made of."""
        gathered: NDArray[np.floating] = idct(weights, axis=1, norm="ortho")
        return gathered * self.signs * self.scale


@dataclass(frozen=True)
class Coordinates:
    """What rows are under a choice of blocks, and how a head on that becomes one on rows as they are cached.

    Attributes
    ----------
    rows : BlockRows
    choice : DepthChoice
    factor : Tensor [d]
        What the standardized numbers are multiplied by.
    values : ndarray of float32 [n, r]
    triangle : ndarray of float64 [m, m] or None
        L of the landmarks; None where the values are the numbers themselves.
    axes : Axes or None
        Along which the values are coordinates, where that is not those of the triangle.
    """

    rows: BlockRows
    choice: DepthChoice
    factor: torch.Tensor
    values: NDArray[np.float32]
    triangle: NDArray[np.float64] | None
    axes: Axes | None = None

    def spread(self, seed: int) -> Coordinates:
        """Return the coordinates of the same rows along axes drawn at random, with the mean square 1.

        Each of the numbers has about as large a part in the length of a row as any other.

        Parameters
        ----------
        seed : int
            By which the axes are drawn.
        """
        assert self.triangle is not None, "numbers that are in the span of rows"
        signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0], np.float32), self.values.shape[1])
        squares = float(np.square(self.values, dtype=np.float64).sum())
        axes = Axes(signs, (self.values.size / squares) ** 0.5 if squares else 1.0)  # of rows that are all alike
        values = np.empty_like(self.values)
        for start in range(0, len(values), _CHUNK):
            values[start : start + _CHUNK] = axes.along(self.values[start : start + _CHUNK])
        return replace(self, values=values, axes=axes)

    def on_rows(self, head: Head) -> Head:
        """Return a head that was fitted to the values as one that takes whole rows."""
        mean, factor = self._scaling
        weighed = weigh_blocks(self._on_numbers(head), mean.numpy(), factor.numpy())
        ranges = self.rows.ranges(self.choice.names)
        return weighed if ranges == [(0, self.rows.width)] else ColumnsHead(weighed, self.rows.width, ranges).eval()

    def of(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return other rows as they are cached, [n, D], as the values are where those are the numbers themselves."""
        mean, factor = self._scaling
        picked = self.rows.picked(torch.from_numpy(features), self.choice.names).float()
        return np.asarray(picked.sub(mean).mul_(factor).numpy())

    @property
    def _scaling(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is taken from the numbers that are picked, and what they are multiplied by then."""
        names = self.choice.names
        return self.rows.picked(self.rows.mean, names), self.factor / self.rows.picked(self.rows.scale, names)

    def _on_numbers(self, head: Head) -> Head:
        """Return a head on coordinates as one on the standardized and weighted numbers."""
        triangle = self.triangle
        if triangle is None:
            return head
        if self.axes is not None or (isinstance(head, LinearHead) and not head.config["l2"]):
            return self._behind_first_layer(head, triangle)
        if self.rows.exact and isinstance(head, RBFHead) and not head.config["l2"]:
            return self._kernel_on_numbers(head)
        if self.rows.exact and isinstance(head, KNNHead):
            found = self._numbers(np.arange(len(head.support)))  # the rows are those it was made of, in order
            neighbors = KNNHead.from_rows(found, head.labels, head.config["out_features"], head.k, head.votes_for)
            return neighbors.eval()
        # here rows are nothing but their part in the span of the landmarks, those that were fitted as any others
        inverse = solve_triangular(triangle, np.eye(len(triangle)), lower=True)
        return ProjectedHead.from_projection(head, self._sum_of_landmarks(inverse.T)).eval()

    def _behind_first_layer(self, head: Head, triangle: NDArray[np.float64]) -> Head:
        """Return a head that begins with a linear layer as one whose layer takes numbers: V L^-1 M of landmarks M."""
        tensors = head.state_dict()
        layer = next(name for name, module in head.named_modules() if isinstance(module, nn.Linear))
        weight = tensors[f"{layer}.weight"].double().numpy()
        weight = weight if self.axes is None else self.axes.back(weight)
        tensors[f"{layer}.weight"] = self._sum_of_landmarks(solve_triangular(triangle, weight.T, lower=True, trans="T"))
        on_numbers = unfilled_head({**head.config, "row_shape": [len(self.factor)]}, None)
        on_numbers.load_state_dict(tensors)
        return on_numbers.eval()

    def _sum_of_landmarks(self, weights: NDArray[np.float64]) -> torch.Tensor:
        """Return weights' @ M, float32 [k, d], for weights [m, k] and the landmarks M, which are not all held."""
        total, ranges = torch.zeros(weights.shape[1], len(self.factor)), self.rows.ranges(self.choice.names)
        for part, rows in self.rows.chunks_at(self.rows.landmarks):
            summed = torch.from_numpy(weights[part].T.astype(np.float32))
            total += torch.cat([product(summed, rows[:, start:stop]) for start, stop in ranges], dim=1)
        return total.mul_(self.factor)

    def _kernel_on_numbers(self, head: RBFHead) -> RBFHead:
        """Return a kernel machine around rows themselves: the part of a row outside of the span counts in distances."""
        assert head.places is not None, "a kernel machine that was just fitted"
        support = self._numbers(head.places)
        coefficients, bias = head.coefficients.detach().numpy(), head.bias.detach().numpy()
        return RBFHead.from_support(support.numpy(), coefficients, bias, float(head.gamma)).eval()

    def _numbers(self, places: NDArray[np.int64]) -> torch.Tensor:
        """Return the standardized and weighted numbers of some rows, float32 [m, d]."""
        numbers = torch.empty(len(places), len(self.factor))
        for part, rows in self.rows.chunks_at(places, at_a_time=_NUMBERED):
            torch.mul(self.rows.picked(rows, self.choice.names), self.factor, out=numbers[part])
        return numbers

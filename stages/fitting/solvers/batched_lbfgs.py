"""L-BFGS for many problems at once, on any device: each evaluation is one for all of them.

The usual L-BFGS (Nocedal 1980; Liu & Nocedal 1989), in the compact form of Byrd, Nocedal & Schnabel (1994,
"Representations of quasi-Newton matrices and their use in limited memory methods", theorem 2.2): the direction is two
batched products with the kept steps, and systems of `_KEPT` equations. No problem waits for the line search of another:
whoever's step was too long is evaluated at a shorter one while the others go on, and leaves a place of its history
empty. The device is asked only every `_CHECKED`-th time who has come to an end; those are left out from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

_KEPT = 10
"""Steps that are kept, as scipy keeps them."""

KEPT_OF_A_POINT = 2 * _KEPT + 20
"""Copies of all points that there are at a time: the history, and some twenty while a step is made of it."""

_CHECKED = 4
"""Evaluations from one question who is done to the next: each makes the host wait for the device."""

_NARROWED_BELOW = 0.75
"""Share of problems that are not done, up to which the others are left out: that copies what is kept."""

_ARMIJO = 1e-4
"""Share of the decrease that the slope promises which a step has to bring."""

_LEAST_VALUE = 0.1
"""Value, if it is below 1, down to which gradients are held against it: where a loss is nearly nothing, so are they,
far from its minimum too."""

_MOST_SHORTER = 12
"""Shorter steps that are tried, one after the other, before a problem is taken for done: what is left is rounding."""


class Objective(Protocol):
    """What is minimized."""

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value of each problem at its point [b, p], float64 [b], and the gradient [b, p]."""

    def narrow(self, kept: Tensor) -> None:
        """Go on with some of the problems alone, by their places among those there are, int64 [c], increasing."""


def minimize(objective: Objective, start: Tensor, *, gtol: float, ftol: float, most: int) -> Tensor:
    """Return where each problem is least, [b, p], as far as it was followed.

    Parameters
    ----------
    objective : Objective
        Convex.
    start : Tensor [b, p]
        Where each begins, float32 or float64. At first a step is as long as the gradient: variables are to be scaled
        so that this is about right.
    gtol : float
        Largest entry of a gradient that is taken for zero, where the value is 1 or more; below it is held against that.
    ftol : float
        Decrease in a whole step, against the value or 1, that ends a problem; as scipy's L-BFGS-B takes it.
    most : int
        Evaluations, at most.
    """
    result, members, points = start.clone(), torch.arange(len(start), device=start.device), start
    values, gradients = objective(points)
    state = _State(points, values, gradients, _are_flat(values, gradients, gtol))
    for number in range(1, most):
        if number % _CHECKED == 1:
            active = (~state.done).nonzero().squeeze(1)
            if not len(active):
                break
            if len(active) <= _NARROWED_BELOW * len(members):
                result[members] = state.points
                members = members[active]
                state.narrow(active)
                objective.narrow(active)
        state.step(*state.evaluated(objective), gtol=gtol, ftol=ftol)
    result[members] = state.points
    return result


def _are_flat(values: Tensor, gradients: Tensor, gtol: float) -> Tensor:
    """Return which gradients [b, p] are taken for zero, where the values are these, bool [b]."""
    return gradients.abs().amax(dim=1) <= gtol * values.clamp(_LEAST_VALUE, 1)


class _State:
    """Points, gradients, directions and history of the problems that are followed."""

    def __init__(self, points: Tensor, values: Tensor, gradients: Tensor, done: Tensor) -> None:
        count, width = points.shape
        self.points, self.values, self.gradients, self.done = points, values, gradients, done
        self.directions = -gradients
        self.slopes = -gradients.square().sum(dim=1, dtype=torch.float64)
        self.lengths, self.shorter = torch.ones_like(values), torch.zeros_like(values)
        self.scales = torch.ones_like(values)
        self.history = points.new_zeros(count, 2 * _KEPT, width)  # steps, then changes of the gradient
        self.step_by_change = values.new_zeros(count, _KEPT, _KEPT)
        self.change_by_change = values.new_zeros(count, _KEPT, _KEPT)
        self.place = 0
        places = torch.arange(_KEPT, device=points.device)
        self.orders = [(places + first) % _KEPT for first in range(_KEPT)]

    def narrow(self, kept: Tensor) -> None:
        """Go on with some of the problems."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])

    def evaluated(self, objective: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points one step on, their values and their gradients."""
        moves = torch.where(self.done, 0, self.lengths).to(self.points.dtype)
        points = torch.addcmul(self.points, self.directions, moves[:, None])
        return points, *objective(points)

    def step(self, points: Tensor, values: Tensor, gradients: Tensor, *, gtol: float, ftol: float) -> None:
        """Take the steps that are good enough, or shorten them."""
        rounding = torch.finfo(points.dtype).eps / 4 * self.values.abs()
        promised = self.lengths * self.slopes
        taken = (values <= self.values + _ARMIJO * promised + rounding) & ~self.done
        largest = torch.maximum(self.values.abs(), values.abs()).clamp_min(1)
        # a step that had to be shortened says nothing of how much there is to gain
        still = (self.values - values <= ftol * largest) & (self.lengths == 1)
        self.shorter = torch.where(taken, 0, self.shorter + 1)
        ended = (taken & (still | _are_flat(values, gradients, gtol))) | (self.shorter > _MOST_SHORTER)
        # the least of the parabola through both values and the slope
        shortened = (-promised / (2 * (values - self.values - promised))).nan_to_num(0.1).clamp(0.1, 0.5)
        self.lengths = torch.where(taken, 1, self.lengths * shortened)
        column = taken[:, None]
        steps = torch.where(column, points - self.points, 0)
        changes = torch.where(column, gradients - self.gradients, 0)
        self.points = torch.where(column, points, self.points)
        self.gradients = torch.where(column, gradients, self.gradients)
        self.values = torch.where(taken, values, self.values)
        self.done = self.done | ended
        self._remember(steps, changes)
        directions = self._directions()
        slopes = (self.gradients * directions).sum(dim=1, dtype=torch.float64)
        downwards = slopes < 0
        directions = torch.where(downwards[:, None], directions, -self.gradients)
        slopes = torch.where(downwards, slopes, -self.gradients.square().sum(dim=1, dtype=torch.float64))
        self.directions = torch.where(column, directions, self.directions)
        self.slopes = torch.where(taken, slopes, self.slopes)

    def _remember(self, steps: Tensor, changes: Tensor) -> None:
        product = (steps * changes).sum(dim=1, dtype=torch.float64)
        squares = changes.square().sum(dim=1, dtype=torch.float64)
        lengths = steps.square().sum(dim=1, dtype=torch.float64)
        told = product > 1e-10 * (squares * lengths).sqrt()  # else the place stays empty
        self.scales = torch.where(told, product / squares, self.scales)
        place, self.place = self.place, (self.place + 1) % _KEPT
        self.history[:, place] = torch.where(told[:, None], steps, 0)
        self.history[:, _KEPT + place] = changes = torch.where(told[:, None], changes, 0)
        by_history = (self.history @ changes[:, :, None]).squeeze(2).double()
        self.step_by_change[:, :, place] = by_history[:, :_KEPT]
        self.step_by_change[:, place, :] = 0
        self.step_by_change[:, place, place] = by_history[:, place]
        self.change_by_change[:, :, place] = by_history[:, _KEPT:]
        self.change_by_change[:, place, :] = by_history[:, _KEPT:]

    def _directions(self) -> Tensor:
        """Return less the gradient times the inverse Hessian that the history tells of, [b, p].

        `step_by_change` holds products of a step and later changes alone, in a ring: all places before `place` were
        written after it and those behind.
        """
        order = self.orders[self.place]
        products = (self.history @ self.gradients[:, :, None]).double()
        by_step, by_change = products[:, :_KEPT][:, order], products[:, _KEPT:][:, order]
        upper = self.step_by_change[:, order][:, :, order]
        diagonal = upper.diagonal(dim1=1, dim2=2).clone()
        upper.diagonal(dim1=1, dim2=2).add_((diagonal == 0).to(upper.dtype))  # empty places
        scales = self.scales[:, None, None]
        inner = torch.linalg.solve_triangular(upper, by_step, upper=True)
        right = diagonal[:, :, None] * inner + scales * (
            self.change_by_change[:, order][:, :, order] @ inner - by_change
        )
        outer = torch.linalg.solve_triangular(upper.transpose(1, 2), right, upper=False)
        factors = torch.zeros_like(products)
        factors[:, order], factors[:, _KEPT + order] = outer, -scales * inner
        moved = (factors.to(self.points.dtype).transpose(1, 2) @ self.history).squeeze(1)
        return -moved.addcmul_(self.gradients, self.scales.to(moved.dtype)[:, None])

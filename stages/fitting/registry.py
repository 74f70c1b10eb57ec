"""The decorator that makes a fit function a head. Torch modules have theirs in ``stages.network.heads.registry``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from stages.config.head_registry import HEADS, HeadKind, RowKind
from stages.fitting.problem import FitProblem
from stages.fitting.result import HeadFit

FitFunction = Callable[[FitProblem], HeadFit]


def register_head(
    name: str,
    *,
    label: str,
    method: Literal["linear", "head"] = "head",
    rows: RowKind = "vector",
    streams: bool = False,
    tasks: tuple[str, ...] = ("single_label",),
    default_for: tuple[str, ...] = (),
    saved_as: str = "",
    cost: float = HeadKind.cost,
) -> Callable[[FitFunction], FitFunction]:
    """Make a function from a `FitProblem` to a `HeadFit` the head of that name.

    In the files of this package the arguments are literals, since they are read without an import, and the docstring of
    the function begins with what the head is, up to the first point, colon or end of line: that is shown by help.

    Parameters
    ----------
    name, label, method, rows, streams, tasks, default_for, saved_as, cost
        As in `HeadKind`. What is fitted is saved as the torch module it is made into; one that has a name of its own,
        and not that of a torch head, is found again by `saved_as`.

    Raises
    ------
    UsageError
        If another head has the name.
    """
    return HEADS.decorator(
        HeadKind(name, label, method, rows, streams, tasks, default_for, saved_as=saved_as, cost=cost)
    )

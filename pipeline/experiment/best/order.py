"""In which order a search tries what it tries: from cheap to dear, and never by a clock.

What comes next follows from scores and from what a head costs in the order of magnitude (`HeadKind.cost`), so that as
many trials give the same bits on any machine that computes the same; a clock only says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cache.errors import UsageError
from pipeline.experiment.best.fine_tuning import fine_tunings
from pipeline.experiment.best.other_looks import further_looks, mirrored_look, other_looks
from pipeline.experiment.best.trial import HeadTrial, Trial
from stages.config.head_registry import HEADS, HeadKind, default_heads, find_head, names_where
from stages.config.heads import BlockWeight, DepthSet, HeadConfig, HeadName
from stages.fitting.halving import DepthSetting

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search

OTHER_WEIGHTS: tuple[BlockWeight, ...] = ("dim", "equal")
"""Weightings that are tried on the depths that are best with the usual one, where no other is asked for."""

MOST_SETTINGS = 3
"""Settings of depths under which a head is fitted to all rows, at most."""

DEAR = 4.4
"""Times the cost of the first rung above which a fitted head comes after other looks at the images."""


_SEARCHED_ROWS = ("vector", "any")
"""Kinds of rows that heads of a search take."""


def first_rung(search: Search) -> Iterator[Trial]:
    """Yield the linear head of the task on each set of depths, the smallest first; on rows of one cut there is one."""
    sets: list[DepthSet] = search.depth_sets
    if not sets:
        yield HeadTrial(search.chooser, search.main)
    for depths in sets:
        settings = tuple(DepthSetting(depths, weight) for weight in search.about.head.block_weight)
        yield HeadTrial(search.chooser, search.main, depths, settings)


def cheap_heads(search: Search) -> Iterator[Trial]:
    """Yield the fitted heads that are not dear, each on the best depths, then on the next best."""
    yield from _by_cost(search, lambda cost: cost <= DEAR)


def dear_heads(search: Search) -> Iterator[Trial]:
    """Yield the others."""
    yield from _by_cost(search, lambda cost: cost > DEAR)


def torch_heads(search: Search) -> Iterator[Trial]:
    """Yield heads that train in epochs, on the depths that are best in the first rung."""
    for kind in sorted(search.heads(in_epochs=True), key=lambda kind: (kind.cost, kind.name)):
        yield HeadTrial(kind.name, search.main, rank=0 if search.depth_sets else None)


def late_heads(search: Search) -> Iterator[Trial]:
    """Yield heads that train in epochs, then the dear ones; the other way round where images are divided several times.

    There it is epochs that take longest, and a budget that has no room for them would end in front of the others.
    """
    for of_class in (dear_heads, torch_heads) if search.divisions > 1 else (torch_heads, dear_heads):
        yield from of_class(search)


CLASSES: tuple[Callable[[Search], Iterator[Trial]], ...] = (
    *(first_rung, cheap_heads, mirrored_look, other_looks, further_looks, late_heads, fine_tunings),
)
"""The classes of trials, the cheapest first."""


def all_trials(search: Search) -> Iterator[Trial]:
    """Yield every trial in its order; what comes next may follow from those that are finished by then."""
    for of_class in CLASSES:
        yield from of_class(search)


def _by_cost(search: Search, holds: Callable[[float], bool]) -> Iterator[Trial]:
    """Yield the fitted heads whose cost is such, sorted by that and by how far down their depths are ranked."""
    first = find_head(search.chooser)
    found: list[tuple[float, str, int]] = []
    for kind in search.heads(in_epochs=False):
        relative, several = kind.cost / first.cost, kind.cost >= first.cost and len(search.depth_sets) > 1
        for rank in range(min(MOST_SETTINGS, len(search.depth_sets)) if several else 1):
            if kind != first and holds(relative * (1 + rank)):
                found.append((relative * (1 + rank), kind.name, rank))
    if search.depth_sets and search.about.head.block_weight == HeadConfig.block_weight and holds(len(OTHER_WEIGHTS)):
        found.append((len(OTHER_WEIGHTS), first.name, 0))
    for _, name, rank in sorted(found):
        if name == first.name:
            best = search.first_rung[0].depths if search.first_rung else search.depth_sets[-1]
            if len(search.block_widths(best)) == 1:  # as of one layer: its blocks weigh the same under each of them
                continue
            settings = tuple(DepthSetting(best, weight) for weight in OTHER_WEIGHTS)
            yield HeadTrial(name, search.main, "weights", settings)
        else:
            yield HeadTrial(name, search.main, str(rank + 1) if rank else "", rank=rank if search.depth_sets else None)


def searched_heads(search: Search, *, in_epochs: bool) -> list[HeadKind]:
    """Return the heads that are searched: those that were named, or all that do the task on rows that are vectors.

    Of those that train in epochs it is the ones that are trained where none is named.
    """
    task, named = search.about.manifest.task.name, search.about.head.head
    kinds = [find_head(name) for name in named] if named else list(HEADS.known.values())
    return [
        kind
        for kind in kinds
        if kind.in_epochs == in_epochs
        and (task in kind.tasks or not kind.tasks)
        and kind.rows in _SEARCHED_ROWS
        and (named or not in_epochs or task in kind.default_for)
    ]


def require_searched(named: Iterable[HeadName]) -> None:
    """Refuse heads that no trial would be of.

    Raises
    ------
    UsageError
        That names those that may be searched.
    """
    left_out = [name for name in named if find_head(name).rows not in _SEARCHED_ROWS]
    if left_out:
        searched = names_where(lambda kind: kind.rows in _SEARCHED_ROWS)
        raise UsageError(
            f"`head` {' '.join(left_out)}: a search is of heads on vectors ({searched}); `train` has those on maps and "
            "on samples of several images"
        )


def choosing_head(task: str, named: tuple[str, ...]) -> str:
    """Return the head of the first rung: the first that is trained for a task where none is named.

    Where rows have no depths, and heads are named, any of these that is fitted will do: the cheapest.
    """
    fitted = [name for name in named if not find_head(name).in_epochs]
    default = default_heads(task)[0]
    return default if not fitted or default in fitted else min(fitted, key=lambda name: (find_head(name).cost, name))

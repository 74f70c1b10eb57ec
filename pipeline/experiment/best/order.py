"""In which order a search tries what it tries: from cheap to dear, and never by a clock.

What comes next follows from scores and from what a head costs in the order of magnitude (`HeadKind.cost`), so that as
many trials give the same bits on any machine that computes the same; a clock only says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.experiment.best.fine_tuning import fine_tunings
from pipeline.experiment.best.other_looks import other_looks
from pipeline.experiment.best.trial import CHOOSES, HeadTrial, Trial
from stages.config.head_registry import HEADS, HeadKind, find_head

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search

MOST_SETTINGS = 2
"""Settings of depths under which a dear head is fitted to all rows."""


def closed_heads(search: Search) -> Iterator[Trial]:
    """Yield fitted heads: ridge under all depths, then each on the best, then dear ones on the next best."""
    kinds = sorted(search.heads(in_epochs=False), key=lambda kind: (kind.name != CHOOSES, kind.cost, kind.name))
    if not kinds:
        return
    has_depths = search.main.extractor.tap_layout is not None
    for kind in kinds:
        yield HeadTrial(kind.name, search.main, 0 if has_depths and kind.name != CHOOSES else None)
    if not has_depths:
        return
    for rank in range(1, MOST_SETTINGS):
        for kind in kinds:
            if kind.cost > find_head(CHOOSES).cost and len(search.by_ridge(search.main)) > rank:
                yield HeadTrial(kind.name, search.main, rank)


def torch_heads(search: Search) -> Iterator[Trial]:
    """Yield heads that train in epochs, on the depths that ridge takes."""
    for kind in sorted(search.heads(in_epochs=True), key=lambda kind: (kind.cost, kind.name)):
        yield HeadTrial(kind.name, search.main, None if search.main.extractor.tap_layout is None else 0)


CLASSES: tuple[Callable[[Search], Iterator[Trial]], ...] = (closed_heads, torch_heads, other_looks, fine_tunings)
"""The classes of trials, the cheapest first."""


def all_trials(search: Search) -> Iterator[Trial]:
    """Yield every trial in its order; what comes next may follow from those that are finished by then."""
    for of_class in CLASSES:
        yield from of_class(search)


def searched_heads(search: Search, *, in_epochs: bool) -> list[HeadKind]:
    """Return the heads that are searched: those that were named, or all that do the task on rows that are vectors.

    Of those that train in epochs it is the ones that are trained where none is named; ridge is among the others in any
    case, since it ranks depths.
    """
    task, named = search.about.manifest.task.name, search.about.head.head
    kinds = [find_head(name) for name in named] if named else list(HEADS.known.values())
    found = [
        kind
        for kind in kinds
        if kind.in_epochs == in_epochs
        and (task in kind.tasks or not kind.tasks)
        and kind.rows in ("vector", "any")
        and (named or not in_epochs or task in kind.default_for)
    ]
    ridge = find_head(CHOOSES)
    if named and not in_epochs and ridge not in found and search.main.extractor.tap_layout is not None:
        found.append(ridge)
    return found

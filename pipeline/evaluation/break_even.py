"""From when on the cache has paid: what filling it took, against the passes through the network that it saves.

A pass is the network's work on the images once. Without the cache every training that looks at the images anew takes
one: each further head, seed, and setting that is tried later, and each epoch of a head that trains in epochs. All is
measured; nothing is assumed of how quick a network is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.method_summary import MethodSummary
from pipeline.text import duration


@dataclass(frozen=True)
class BreakEven:
    """What the cache of a run took and saved.

    Attributes
    ----------
    fill_seconds : float
        To put the features of all images into it, once for all heads and seeds.
    pass_seconds : float
        Of one pass without it: an epoch of the head alone through the frozen network, or the extraction itself.
    from_uncached : bool
        Whether the former was measured.
    passes : int
        That the heads of the run would have taken: one for each closed fit and seed, one for each epoch of the others.
    marginal_seconds : float
        What these heads took on cached features, together.
    heads, seeds : int
    """

    fill_seconds: float
    pass_seconds: float
    from_uncached: bool
    passes: int
    marginal_seconds: float
    heads: int
    seeds: int

    @property
    def paid_after(self) -> int:
        """The first number of passes that take longer without the cache than with it."""
        return math.floor(self.fill_seconds / self.pass_seconds) + 1

    def with_cache(self, passes: float) -> float:
        """Return the seconds of so many passes' work on cached features, from empty cache on."""
        return self.fill_seconds + passes * self.marginal_seconds / self.passes

    def without_cache(self, passes: float) -> float:
        """Return the seconds of the same through the network each time."""
        return passes * (self.pass_seconds + self.marginal_seconds / self.passes)

    @property
    def words(self) -> str:
        """When it has paid, and what it did here, in a sentence."""
        measured = "an epoch through the frozen network" if self.from_uncached else "another pass through the network"
        heads = f"{self.heads} head{'s' if self.heads > 1 else ''}"
        seeds = f" under {self.seeds} seeds" if self.seeds > 1 else ""
        stand_for = f"stand{'' if self.heads > 1 else 's'} for {self.passes:,} passes"
        paid = "has paid" if self.passes >= self.paid_after else "has not paid yet"
        return (
            f"The cache took {duration(self.fill_seconds)} to fill, and {measured} takes {duration(self.pass_seconds)} "
            f"(both measured): it pays from the {_ordinal(self.paid_after)} head, setting, seed or epoch on that would "
            f"go through the images again. The {heads}{seeds} here {stand_for}, in "
            f"{duration(self.with_cache(self.passes))} instead of {duration(self.without_cache(self.passes))}: it "
            f"{paid}."
        )


def break_even(rows: Sequence[MethodSummary]) -> BreakEven | None:
    """Return what the cache took and saved; None where no or one closed fit used it, or filling it was not measured.

    Parameters
    ----------
    rows : sequence of MethodSummary
        Of one run, or of several, of which the first with a head counts.
    """
    run = next((row.run for row in rows if row.cached), None)
    rows = [row for row in rows if row.run == run]
    heads = [row for row in rows if row.cached and row.method != "ensemble"]  # which is made of passes that are counted
    fill = max((row.seconds_by_stage["extract"] for row in heads), default=0.0)
    if fill <= 0:
        return None
    uncached = [
        seconds
        for row in rows
        if row.method == "uncached"
        for result in row.results
        for entry in result.history
        if entry["epoch"] and (seconds := entry.get("seconds")) is not None and seconds > 0
    ]
    passes = sum(
        max(sum(bool(entry["epoch"]) for entry in result.history), 1) for row in heads for result in row.results
    )
    if passes < 2:  # the one pass that fills it
        return None
    return BreakEven(
        fill_seconds=fill,
        pass_seconds=sum(uncached) / len(uncached) if uncached else fill,
        from_uncached=bool(uncached),
        passes=passes,
        marginal_seconds=sum(result.marginal_seconds for row in heads for result in row.results),
        heads=len(heads),
        seeds=len(heads[0].results),
    )


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

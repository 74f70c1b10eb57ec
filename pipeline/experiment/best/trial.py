"""Trials: what a search trains one after the other, each a method of the run.

A trial is found where the run has it, trained in the same way, and else run. What it will take is estimated from what
earlier trials took; the estimate decides whether it still fits into a budget, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.best.look import MIRROR, Look
from pipeline.experiment.methods.head_methods import find_finished_head, head_dir_name, run_head
from stages.config.head_registry import find_head, head_label
from stages.config.heads import HeadConfig
from stages.fitting.halving import DepthSetting, halve

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search


class Trial(Protocol):
    """Something to train and test, once, whose name is its own in the run."""

    @property
    def name(self) -> str:
        """What its method is called in the run."""
        ...

    @property
    def what(self) -> str:
        """What it is, in words."""
        ...

    @property
    def folder(self) -> str:
        """The name of its folder, in that of the seed."""
        ...

    def seconds(self, search: Search) -> float:
        """Return what it will take, in seconds, by what was measured so far."""
        ...

    def find(self, search: Search) -> Result | None:
        """Return its result where the run has it; UsageError where the run has another of its name."""
        ...

    def run(self, search: Search) -> Result:
        """Train and test it."""
        ...

    def details(self, search: Search) -> dict[str, Any]:
        """Return what later trials follow from, for its record."""
        ...


@dataclass(frozen=True)
class HeadTrial:
    """A head on the rows of a look.

    Attributes
    ----------
    head : str
    look : Look
    way : str
        What tells it from other trials of the same head: in its name, behind a hyphen.
    settings : tuple of DepthSetting
        Those it is searched over, all of one set of depths; none where rows are of one cut, or it has a rank.
    rank : int or None
        Which of the settings it takes, from 0, as the rungs below rank them for this head (`halving`).
    """

    head: str
    look: Look
    way: str = ""
    settings: tuple[DepthSetting, ...] = ()
    rank: int | None = None

    @property
    def name(self) -> str:
        """What its method is called: the head, and what tells it from others of the same head."""
        return f"{self.head}-{self.way}" if self.way else self.head

    @property
    def what(self) -> str:
        """What it is, in words."""
        label = head_label(self.head)
        if self.look.name:
            seen = "mirror images too" if self.look.name == MIRROR else self.look.name
            return f"{label} on {seen}" + (f", depths {self.settings[0].depths}" if self.settings else "")
        if self.settings:
            weights = [setting.block_weight for setting in self.settings]
            return f"{label} on {self.settings[0].depths}, block weight {' and '.join(weights)}"
        if self.rank is None:
            return label
        return f"{label} on the best depths" if self.rank == 0 else f"{label} on the best but {self.rank} of the depths"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return head_dir_name(self.head, self.name)

    def seconds(self, search: Search) -> float:
        """Return the time of the same head on other rows, or that of another head times what it usually takes."""
        return self.look.seconds_left(search.main, guessed=search.looks_ahead) + search.head_seconds(self.head) * max(
            len(self.settings), 1
        )

    def find(self, search: Search) -> Result | None:
        """Return its result where the run has it."""
        settings = self.settings if self.rank is None else search.settings_taken.get(self.name)
        if settings is None:
            return None
        return find_finished_head(self.look.experiment, self.head, self._options(search, settings), self.name)

    def run(self, search: Search) -> Result:
        """Rank depths where that is to be done, fit the head to all rows, and test it."""
        settings = self.settings if self.rank is None else search.ranked_for(self)[self.rank : self.rank + 1]
        if self.rank is not None and not settings:
            raise UsageError(f"no trial before ranks depths for {self.head}")
        settings = tuple(settings)
        search.settings_taken[self.name] = settings
        experiment, options = self.look.experiment, self._options(search, settings)
        finished = find_finished_head(experiment, self.head, options, self.name)
        if finished is not None:
            return finished
        return run_head(experiment, self.look.problems, self.head, options, self.name)

    def details(self, search: Search) -> dict[str, Any]:
        """Return the depths it took, and how all were ranked for the head."""
        ranked = search.rankings.get(self.head) if self.rank is not None else None
        return {
            "head": self.head,
            "look": self.look.name,
            "settings": [list(setting) for setting in search.settings_taken.get(self.name, ())],
            **({} if ranked is None else {"ranked": [list(setting) for setting in ranked]}),
        }

    def _options(self, search: Search, settings: tuple[DepthSetting, ...]) -> HeadConfig:
        options = replace(search.about.head, head=(self.head,))
        if not settings:
            return options
        weights = tuple(setting.block_weight for setting in settings)
        return replace(options, depths=(settings[0].depths,), block_weight=weights)


def rank_settings(search: Search, trial: HeadTrial) -> list[DepthSetting]:
    """Return the settings of depths for a head, from the best down: by the first rung, for a dear head by itself too.

    The next after the first is of other depths, where there are such, so that it tells something else.
    """
    first_rung = search.first_rung
    kind, ranked = find_head(trial.head), first_rung
    if not kind.in_epochs and kind.cost > find_head(search.chooser).cost:
        problem = trial.look.problems.of(trial.head).problem
        options = replace(search.about.head, head=(trial.head,))
        ranked = halve(trial.head, replace(problem, config=options), first_rung)
    order = list(dict.fromkeys([*ranked, *first_rung]))
    of_new_depths = {setting.depths: setting for setting in reversed(order)}
    best_of_each = [setting for setting in order if of_new_depths[setting.depths] == setting]
    return list(dict.fromkeys([*best_of_each, *order]))

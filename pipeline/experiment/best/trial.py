"""Trials: what a search trains one after the other, each a method of the run.

A trial is found where the run has it, trained in the same way, and else run. What it will take is estimated from what
earlier trials took; the estimate decides whether it still fits into a budget, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.evaluation.results import Result
from pipeline.experiment.best.look import Look
from pipeline.experiment.head_methods import find_finished_head, head_dir_name, run_head
from stages.config.head_registry import find_head, head_label
from stages.config.heads import BlockWeight, HeadConfig
from stages.fitting.halving import DepthSetting, halve

if TYPE_CHECKING:
    from pipeline.experiment.best.search import Search

CHOOSES = "ridge"
"""The head that is the first rung, and whose time others are estimated by."""

ALL_WEIGHTS: tuple[BlockWeight, ...] = ("sqrt", "dim", "equal")
"""The weightings that the first rung tries; of equals the first is taken."""


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
    rank : int or None
        Which of the settings of depths it takes, from 0, as the rungs below rank them for this head (`halving`); None
        for all of them, or where rows are of one cut.
    """

    head: str
    look: Look
    rank: int | None = None

    @property
    def name(self) -> str:
        """What its method is called: the head, and what tells it from others of the same head."""
        ways = [self.look.name, str(self.rank + 1) if self.rank else ""]
        return "-".join([self.head, *filter(None, ways)])

    @property
    def what(self) -> str:
        """What it is, in words."""
        ways = [
            *([] if self.rank is None else ["on the best depths" if not self.rank else "on the next best depths"]),
            *([f"of {self.look.name}"] if self.look.name else []),
        ]
        return " ".join([head_label(self.head), *ways])

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return head_dir_name(self.head, self.name)

    def seconds(self, search: Search) -> float:
        """Return the time of the same head on other rows, or else that of ridge times what it usually takes."""
        return self.look.seconds_left(search.main) + search.head_seconds(self.head)

    def find(self, search: Search) -> Result | None:
        """Return its result where the run has it."""
        known = search.known_settings(self.name)
        if self.rank is not None and known is None:
            return None
        return find_finished_head(self.look.experiment, self.head, self._options(search, known), self.name)

    def run(self, search: Search) -> Result:
        """Rank depths where that is to be done, fit the head to all rows, and test it."""
        setting = None if self.rank is None else search.settings_of(self)[self.rank]
        search.chosen_settings[self.name] = setting
        experiment, options = self.look.experiment, self._options(search, setting)
        finished = find_finished_head(experiment, self.head, options, self.name)
        if finished is not None:
            return finished
        return run_head(experiment, self.look.problems, self.head, options, self.name)

    def details(self, search: Search) -> dict[str, Any]:
        """Return the depths it took, and how all were ranked."""
        ranked = search.rankings.get((self.look.name, self.head))
        setting = search.chosen_settings.get(self.name)
        return {
            "head": self.head,
            "look": self.look.name,
            **({} if setting is None else {"setting": list(setting)}),
            **({} if ranked is None else {"ranked": [list(each) for each in ranked]}),
        }

    def _options(self, search: Search, setting: DepthSetting | None) -> HeadConfig:
        options = replace(search.about.head, head=(self.head,))
        if self.look.extractor.tap_layout is None:
            return options
        if setting is None:
            return replace(options, block_weight=ALL_WEIGHTS)
        return replace(options, depths=(setting.depths,), block_weight=(setting.block_weight,))


def rank_settings(search: Search, trial: HeadTrial) -> list[DepthSetting]:
    """Return the settings of depths for a head, from the best down: by ridge, and for a dear head by itself on a part.

    The first two are of different depths where there are such, so that the second tells something else.
    """
    by_ridge = search.by_ridge(trial.look)
    kind = find_head(trial.head)
    ranked = list(by_ridge)
    if not kind.in_epochs and kind.cost > find_head(CHOOSES).cost:
        problem = trial.look.problems.of(trial.head).problem
        options = replace(search.about.head, head=(trial.head,))
        ranked = halve(trial.head, replace(problem, config=options), by_ridge)
    first = ranked[0]
    others = [setting for setting in [*ranked, *by_ridge] if setting.depths != first.depths]
    return [first, *dict.fromkeys([*others[:1], *ranked[1:]])]

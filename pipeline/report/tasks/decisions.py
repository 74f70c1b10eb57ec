"""What is decided by probabilities, for a page on one class a sample: what two classes trade off, and possible sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import CutonceError
from pipeline.evaluation.decision import Decision, Threshold, decide
from pipeline.report.page_parts import ReportFigure
from pipeline.report.tasks.class_figures import precision_over_recall, roc
from pipeline.report.tasks.registry import PageContext
from pipeline.text import percent
from stages.config.goals import Goal, goal_of
from stages.tasks.class_scores import class_scores

DEFAULT_GOAL = "recall=0.95"
"""What the page shows a threshold for where the run asks for none."""

DEFAULT_COVERAGE = 0.9


@dataclass(frozen=True)
class ThresholdRow:
    """What a threshold does to the test images: counts, shares in words, and, where costs are known, their sum."""

    words: str
    value: float
    missed: int
    missed_share: str
    false_alarms: int
    false_share: str
    precision: str
    cost: float | None


@dataclass(frozen=True)
class TwoClasses:
    """Of two classes: how they can be traded off, and what thresholds do."""

    positive: str
    negative: str
    positives: int
    negatives: int
    pictures: list[ReportFigure]
    rows: list[ThresholdRow]
    costs: tuple[float, float] | None


@dataclass(frozen=True)
class PossibleSets:
    """What sets of possible classes hold of the test images, in words."""

    promised: str
    covered: str
    interval: str
    size: str
    single: str
    worst: str
    worst_class: str


def two_classes(context: PageContext, names: Sequence[str]) -> TwoClasses | None:
    """Return what thresholds do to the best method's test images; None of other tasks, or of one class alone."""
    statistics, task = context.predictions.statistics, context.comparison.task
    if task.name != "single_label" or len(names) != 2 or len(np.unique(statistics["target"])) < 2:
        return None
    asked = _configured(context, "threshold_for")
    goal = goal_of(asked or DEFAULT_GOAL)
    assert goal is not None
    chosen = _decided(context, goal, None)
    threshold = None if chosen is None else chosen.threshold
    positive = threshold.positive if threshold is not None else 1
    target, scores = statistics["target"] == positive, statistics["probabilities"][:, positive]
    halves = Threshold(goal, positive, 0.5)
    thresholds = [(halves, "at 0.5"), *([(threshold, f"for {_words_of(goal)}")] if threshold is not None else [])]
    rows = [_row(statistics["probabilities"], target, one, words) for one, words in thresholds]
    marks = [(row.value, row.words) for row in rows]
    named = names[positive]
    summary = "; ".join(f"{row.words} {row.missed_share} missed, {row.false_share} false alarms" for row in rows)
    pictures = [
        context.drawn.add("roc", roc(target, scores, marks, named), f"ROC curve of {context.first.label}: {summary}"),
        context.drawn.add(
            "precision-recall",
            precision_over_recall(target, scores, marks, named),
            f"Precision over recall of {context.first.label}: {summary}",
        ),
    ]
    return TwoClasses(named, names[1 - positive], int(target.sum()), int((~target).sum()), pictures, rows, goal.costs)


def possible_sets(context: PageContext, names: Sequence[str]) -> PossibleSets | None:
    """Return what sets of possible classes hold of the best method's test images; None where none can be made."""
    coverage = _configured(context, "coverage") or DEFAULT_COVERAGE
    decision = _decided(context, None, float(coverage))
    if decision is None or decision.least is None:
        return None
    statistics = context.predictions.statistics
    target, possible = statistics["target"], decision.possible(statistics["probabilities"])
    held = possible[np.arange(len(target)), target]
    whole = class_scores(np.ones((len(held), 1), dtype=bool), held[:, None]).recall
    present = np.unique(target)
    by_class = [float(held[target == number].mean()) for number in present]
    worst = int(np.argmin(by_class))
    return PossibleSets(
        percent(float(coverage), digits=0),
        percent(float(held.mean())),
        f"{100 * float(whole.low[0]):.1f} to {100 * float(whole.high[0]):.1f}",
        f"{possible.sum(axis=1).mean():.2f}",
        percent(float((possible.sum(axis=1) == 1).mean())),
        percent(by_class[worst]),
        names[int(present[worst])],
    )


def _configured(context: PageContext, option: str) -> str | None:
    value = context.configuration.get(option)
    return None if value is None else str(value)


def _decided(context: PageContext, goal: Goal | None, coverage: float | None) -> Decision | None:
    """Return how probabilities are read; None where the result kept nothing to choose by."""
    try:
        return decide(context.first.results[0], goal, coverage)
    except CutonceError:
        return None


def _row(probabilities: NDArray[np.floating], target: NDArray[np.bool_], one: Threshold, words: str) -> ThresholdRow:
    found = one.predicted(probabilities) == one.positive
    missed, false_alarms = int((target & ~found).sum()), int((~target & found).sum())
    costs = one.goal.costs
    return ThresholdRow(
        words,
        one.value,
        missed,
        percent(missed / target.sum()),
        false_alarms,
        percent(false_alarms / (~target).sum()),
        percent((target & found).sum() / found.sum()) if found.any() else "–",
        None if costs is None else (costs[0] * missed + costs[1] * false_alarms),
    )


def _words_of(goal: Goal) -> str:
    """Return a goal in words."""
    if goal.costs is None:
        assert goal.recall is not None
        return f"{percent(goal.recall, digits=0)} recall"
    return f"costs of {goal.costs[0]:g} to {goal.costs[1]:g}"

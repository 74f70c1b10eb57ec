"""What probabilities are worth, for a page on one class a sample: how reliable they are, and how methods compare."""

from __future__ import annotations

from dataclasses import dataclass

from cache.errors import CutonceError
from pipeline.evaluation.decision import decide
from pipeline.report.page_parts import ReportFigure
from pipeline.report.tasks.class_figures import reliability_diagram
from pipeline.report.tasks.registry import PageContext
from pipeline.text import format_score, percent
from stages.tasks.base import Metric
from stages.tasks.calibration import reliability

_METRICS = ("log_loss", "brier", "ece")


@dataclass(frozen=True)
class ProbabilitiesPart:
    """The reliability diagram of the best method in a picture and in words, and the metrics that a table compares."""

    words: str
    picture: ReportFigure
    metrics: tuple[Metric, ...]

    @property
    def notes(self) -> str:
        """What the metrics are, in sentences."""
        return " ".join(metric.note for metric in self.metrics)


def probabilities_part(context: PageContext) -> ProbabilitiesPart | None:
    """Return what the page says of the best method's probabilities; None of a task without, or without a right one."""
    task, predictions = context.comparison.task, context.predictions
    metrics = tuple(task.metrics[name] for name in _METRICS if name in task.metrics)
    if len(metrics) < len(_METRICS) or task.confusion(predictions.statistics) is None:
        return None
    statistics = predictions.statistics
    predicted = statistics["probabilities"].argmax(axis=1)
    confidence = statistics["probabilities"].max(axis=1)
    bins = reliability(confidence, predicted == statistics["target"])
    called, right = (
        float((values * bins.counts).sum() / bins.counts.sum()) for values in (bins.confidence, bins.right)
    )
    words = (
        f"{context.first.label} is {percent(called)} sure on average, and right in {percent(right)}. Each point is "
        f"{'a' if len(bins.counts) > 1 else 'the'} bin of about {round(bins.counts.mean()):,} test images; a bar shows "
        f"where it would lie in 95 % of cases if probabilities were what they say. "
        f"{bins.outside or 'None'} of {len(bins.counts)} lie{'s' if bins.outside == 1 else ''} outside."
    )
    pairs = "; ".join(
        f"{percent(sure)} sure, {percent(share)} right" for sure, share in zip(bins.confidence, bins.right, strict=True)
    )
    words += _by_temperature(context)
    picture = context.drawn.add(
        "reliability",
        reliability_diagram(bins, confidence),
        f"Share that is right over how sure {context.first.label} is: {pairs}",
    )
    return ProbabilitiesPart(words, picture, metrics)


def _by_temperature(context: PageContext) -> str:
    """Return what a temperature that fits held-out images would do to the test images, in a sentence; '' for none."""
    result, statistics = context.first.results[0], context.predictions.statistics
    try:
        decision = decide(result, None, None, calibrate=True)
    except CutonceError:
        return ""
    metrics = [context.comparison.task.metrics[name] for name in ("log_loss", "ece")]
    before = [metric.score(statistics) for metric in metrics]
    divided = statistics.copy()
    divided["probabilities"] = decision.calibrated(statistics["probabilities"])
    after = [metric.score(divided) for metric in metrics]
    changes = " and ".join(
        f"{metric.label} {format_score(new, as_percent=metric.as_percent)} in place of "
        f"{format_score(old, as_percent=metric.as_percent)}"
        for metric, old, new in zip(metrics, before, after, strict=True)
    )
    return (
        f" Divided by {decision.temperature:.3g}, the temperature that fits held-out images best, its logits would "
        f"have {changes} here; predict --calibrate does that."
    )

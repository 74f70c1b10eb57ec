"""A comparison as a terminal shows it: what to take, why in short paragraphs, and the methods from the best down."""

from __future__ import annotations

from pipeline.evaluation.comparison import Comparison, interval_words, renderings_words
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.one_line import one_line
from pipeline.text import byte_count, capitalized, format_count, format_range, format_score, table, wrapped

TAKEN, OTHERS = "* ", "  "
"""What stands before the method to take, and before the others."""

PROSE = 100
"""Columns of text that sentences take at most, however wide the terminal is: longer lines are hard to read."""


def format_verdict(comparison: Comparison, width: int) -> str:
    """Return what to take in one line, then each thing that was found as a paragraph of its own."""
    verdict = comparison.verdict
    details = [verdict.headline, *verdict.warnings, *verdict.explanations]
    said = [wrapped(detail, min(width, PROSE), "- ") for detail in details]
    heading = [] if verdict.outcome == "new data" else [wrapped(f"{one_line(comparison)}.", min(width, PROSE)), ""]
    return "\n".join([*heading, *said])


def format_tables(comparison: Comparison, width: int) -> str:
    """Return how good the methods are and what they cost, the best first, with what the numbers are."""
    metric = comparison.metric
    alone, unit = len(comparison.rows) == 1, comparison.rows[0].unit
    below = [
        *(
            []
            if alone
            else [f"{TAKEN}the one to take. The best come first, by what ranks them; no test image has a say in it."]
        ),
        "--method: what `predict`, `export` and `evaluate` call it.",
        f"{capitalized(metric.label)} on {comparison.test_images}. {interval_words(comparison)}",
        *renderings_words(comparison),
        *([comparison.choice_in_folds.words] if comparison.choice_in_folds is not None else []),
    ]
    costs = [
        f"s: seconds; the features are made once for all heads. ms/{unit}: from its bytes to its prediction. model: on "
        "disk, without the network. parameters: those that were trained. passes: images through the network, to make "
        "the features + in the method's own work.",
    ]
    return "\n".join(
        [
            *(_scores(comparison, width), "", *(wrapped(words, min(width, PROSE)) for words in below), ""),
            *(_costs(comparison, width), "", *(wrapped(words, min(width, PROSE)) for words in costs)),
        ]
    )


def _scores(comparison: Comparison, width: int) -> str:
    several, folded = len(comparison.seeds) > 1, any(row.cv is not None for row in comparison.rows)
    metric, shown = comparison.metric, comparison.shown_metrics
    header = [f"{OTHERS}method", "--method", *["out of folds"] * folded, metric.label, "95 % interval"]
    header += [*["over seeds"] * several, *(other.label for other in shown)]
    lines = []
    for row in comparison.ranked:
        line = [_marked(comparison, row), _folder(row)]
        if folded:
            line += ["-" if row.cv is None else format_score(row.cv.mean, as_percent=metric.as_percent)]
        line += [format_score(row.score, as_percent=metric.as_percent)]
        line += [format_range(row.ci95, as_percent=metric.as_percent)]
        line += [format_range(row.score_range, as_percent=metric.as_percent)] * several
        line += [format_score(row.mean_score(other.name), as_percent=other.as_percent) for other in shown]
        lines.append(line)
    return table(header, lines, 2, width)


def _costs(comparison: Comparison, width: int) -> str:
    unit = comparison.rows[0].unit
    header = [f"{OTHERS}method", "features, s", "train, s", "test, s", "in all, s", f"ms/{unit}"]
    header += ["model", "peak memory", "parameters", "passes"]
    lines = []
    for row in comparison.ranked:
        seconds = (*row.seconds_by_stage.values(), row.seconds)
        line = [_marked(comparison, row), *(f"{number:,.1f}" for number in seconds)]
        line += [f"{1000 * row.prediction_seconds:,.1f}"]
        line += ["-" if row.model_bytes is None else byte_count(row.model_bytes)]
        line += [byte_count(row.peak_memory_bytes), format_count(row.trainable_parameters)]
        line += [f"{row.extraction_forwards:,.0f} + {row.backbone_forwards:,.0f}"]
        lines.append(line)
    return table(header, lines, 1, width)


def _marked(comparison: Comparison, row: MethodSummary) -> str:
    is_taken = row is comparison.verdict.chosen and len(comparison.rows) > 1
    return f"{TAKEN if is_taken else OTHERS}{row.label}"


def _folder(row: MethodSummary) -> str:
    """Return what `method` calls it."""
    folder = row.results[0].directory
    return "-" if folder is None else folder.name

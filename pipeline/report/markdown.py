"""The page in Markdown, for issues and repositories: verdict, table, and what the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.comparison import Comparison, interval_words, renderings_words
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.one_line import chosen_method, one_line
from pipeline.options.flags_in_text import as_flags
from pipeline.report.page_parts import write_page
from pipeline.run_layout import MARKDOWN, REPORT
from pipeline.text import duration, format_difference, format_error, format_range, format_score, in_markdown


def write_markdown(out: Path, comparison: Comparison, notes: Sequence[str]) -> Path:
    """Write ``report.md`` into `out`; return its path.

    Parameters
    ----------
    out : Path
    comparison : Comparison
    notes : sequence of str
        What there is to know about the data.
    """
    verdict = comparison.verdict
    parts = [f"# {in_markdown(one_line(comparison))}", in_markdown(verdict.headline)]
    parts += [in_markdown(as_flags(detail)) for detail in verdict.details]
    parts += ["\n".join(_table(comparison))]
    parts += [in_markdown(f"Tested on {comparison.test_images}. {interval_words(comparison)}")]
    parts += [in_markdown(words) for words in renderings_words(comparison)]
    known = [*comparison.notes, *notes]
    if known:
        parts += ["## Notes", "\n".join(f"- {in_markdown(as_flags(note))}" for note in known)]
    parts += [f"Figures, mistakes and options are in `{REPORT}`."]
    path = out / MARKDOWN
    write_page(path, "\n\n".join(parts) + "\n")
    return path


def _table(comparison: Comparison) -> list[str]:
    folded, metric = comparison.choice.cross_validated, comparison.metric
    header = ["method", *["out of folds"] * folded, "validation", f"test {metric.label}", "95 % interval"]
    header += [f"against {comparison.reference.label}", *(shown.label for shown in comparison.shown_metrics)]
    header += ["marginal time", "time"]
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 1)], as_it_is=True)]
    return lines + [_line(_cells(comparison, row, folded=folded)) for row in comparison.ranked]


def _cells(comparison: Comparison, row: MethodSummary, *, folded: bool) -> list[str]:
    percent, test = comparison.metric.as_percent, comparison.test_of(row)
    cells = [row.label + (" (to take)" if row is chosen_method(comparison) else "")]
    if folded and row.cv is None:
        cells += ["–"]
    elif folded and row.cv is not None:
        error = format_error(row.cv.standard_error, as_percent=percent)
        cells += [f"{format_score(row.cv.mean, as_percent=percent)} ± {error}"]
    cells += [format_score(row.val_score, as_percent=percent), format_score(row.score, as_percent=percent)]
    cells += [format_range(row.ci95, as_percent=percent)]
    cells += ["–" if test is None else format_difference(test.difference, as_percent=percent)]
    cells += [
        format_score(row.mean_score(shown.name), as_percent=shown.as_percent) for shown in comparison.shown_metrics
    ]
    return [*cells, duration(row.marginal_seconds), duration(row.seconds)]


def _line(cells: Sequence[str], *, as_it_is: bool = False) -> str:
    return f"| {' | '.join(cell if as_it_is else in_markdown(cell) for cell in cells)} |"

"""Methods as rows of plain numbers: a data frame, ``table.csv``, and what a notebook shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.atomic_write import write_atomically
from cache.errors import UsageError
from pipeline import run_layout
from pipeline.text import format_score

if TYPE_CHECKING:
    from pipeline.evaluation.comparison import Comparison
    from pipeline.evaluation.results import Result
    from stages.tasks.base import Metric

Row = dict[str, Any]


def method_rows(comparison: Comparison) -> list[Row]:
    """Return a row for each method, the best by what ranks them first; what is not known is None.

    Scores are as they are, shares in 0 to 1; costs in seconds and bytes; `difference` and its ends are those of the
    paired test against the reference, which has none.
    """
    return [_method_row(comparison, number) for number in range(len(comparison.ranked))]


def _method_row(comparison: Comparison, number: int) -> Row:
    row, metric = comparison.ranked[number], comparison.metric
    test = comparison.test_of(row)
    low, high = (None, None) if test is None else test.difference_ci95
    return {
        "method": row.label,
        "run": str(row.run),
        "chosen": row is comparison.choice.chosen,
        "seeds": len(row.seeds),
        "out_of_folds": None if row.cv is None else row.cv.mean,
        "out_of_folds_error": None if row.cv is None else row.cv.standard_error,
        f"val_{metric.name}": _known(row.val_score),
        f"test_{metric.name}": _known(row.score),
        "ci95_low": _known(row.ci95[0]),
        "ci95_high": _known(row.ci95[1]),
        **{f"test_{shown.name}": _known(row.mean_score(shown.name)) for shown in comparison.shown_metrics},
        "difference": None if test is None else test.difference,
        "difference_ci95_low": low,
        "difference_ci95_high": high,
        "p": None if test is None else test.p_value,
        "p_holm": None if test is None else test.p_holm,
        "seconds": row.seconds,
        "marginal_seconds": row.marginal_seconds,
        "prediction_seconds": _known(row.prediction_seconds),
        "model_bytes": row.model_bytes,
        "peak_memory_bytes": row.peak_memory_bytes,
        "trainable_parameters": row.trainable_parameters,
    }


def result_row(result: Result) -> Row:
    """Return one result as a row: what it is, its metrics on the test split, and what it cost."""
    metric = result.metric
    return {
        "method": result.method,
        "name": result.name,
        "seed": result.seed,
        f"val_{metric.name}": _known(result.val[metric.name]),
        f"test_{metric.name}": result.test[metric.name],
        "ci95_low": result.test["ci95"][0],
        "ci95_high": result.test["ci95"][1],
        **{f"test_{name}": result.test.get(name) for name in result.task.shown},
        "seconds": result.seconds,
        "marginal_seconds": result.marginal_seconds,
        "prediction_seconds": result.prediction_seconds_per_image,
        "model_bytes": result.model_bytes,
        "peak_memory_bytes": result.peak_memory_bytes,
        "trainable_parameters": result.trainable_parameters,
    }


def as_frame(rows: Sequence[Row]) -> Any:
    """Return rows as a ``pandas.DataFrame``.

    Raises
    ------
    UsageError
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError("a data frame needs pandas: pip install pandas") from error
    return pd.DataFrame(list(rows))


def as_html(rows: Sequence[Row], metric: Metric, caption: str) -> str:
    """Return rows as an HTML table, with names from data escaped: what methods are called, score, and take."""
    scores = ["out_of_folds", f"val_{metric.name}", f"test_{metric.name}", "ci95_low", "ci95_high"]
    names = [name for name in rows[0] if name in ("method", "name", "seed", *scores, "marginal_seconds", "seconds")]
    names = [name for name in names if any(row[name] is not None for row in rows)]
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_marked(_cell(row[name], metric, score=name in scores), row)}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    return f"<table><caption>{_html(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_table_csv(out: Path, comparison: Comparison) -> Path:
    """Write ``table.csv``, `method_rows` with empty cells for what is not known; return its path."""
    rows = method_rows(comparison)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = out / run_layout.TABLE
    write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace"))
    return path


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _html(text: str) -> str:
    return escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _marked(text: str, row: Mapping[str, Any]) -> str:
    return f"<b>{_html(text)}</b>" if row.get("chosen") else _html(text)


def _cell(value: Any, metric: Metric, *, score: bool) -> str:
    if value is None:
        return "–"
    if score:
        return format_score(value, as_percent=metric.as_percent)
    return f"{value:,.1f}" if isinstance(value, float) else str(value)

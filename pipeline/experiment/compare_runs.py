"""From finished results to what people read: the table, results.json, predictions.csv and the page."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.comparison import Comparison, compare_runs
from pipeline.evaluation.console import format_tables, format_verdict
from pipeline.evaluation.method_table import write_table_csv
from pipeline.evaluation.results import (
    FEATURES_READ,
    VIEWS_READ,
    Result,
    read_json,
    write_predictions_csv,
    write_results_json,
)
from pipeline.experiment.pages.extra_columns import extra_columns
from pipeline.experiment.pages.page_evidence import RunEvidence
from pipeline.options.toml_file import read_configuration
from pipeline.report.markdown import write_markdown
from pipeline.report.page import write_report
from pipeline.run_layout import CONFIGURATION, ENVIRONMENT, EXTRACTION, files_of_seeds
from pipeline.text import once_for_all_seeds, terminal_width
from stages.config.feature_map import FeatureMapKind
from stages.inspection.feature_map import require_feature_map

_LOG = logging.getLogger("cutonce")


def publish(
    runs: Sequence[Path], out: Path, metric: str | None = None, feature_map: FeatureMapKind = "pca"
) -> Comparison:
    """Compare the results of the runs, write everything into `out`, tell the verdict, the table and where the page is.

    By `metric`, or by the one that the first result was ranked by; features are drawn as points by `feature_map`.

    Raises
    ------
    DataError
        If a run has no results, or they are not about the same test images.
    UsageError
        If the library that `feature_map` needs is not there.
    """
    require_feature_map(feature_map)
    comparison = compare_runs(runs, metric)
    page = write_comparison(comparison, runs, out, feature_map)
    width = terminal_width()
    said = [format_verdict(comparison, width), format_tables(comparison, width), f"report: {page}"]
    _LOG.info("".join(f"\n{part}\n" for part in said).removesuffix("\n"))
    return comparison


def write_comparison(
    comparison: Comparison, runs: Sequence[Path], out: Path, feature_map: FeatureMapKind = "pca"
) -> Path:
    """Write results.json, the tables and the page of compared runs into `out`; return where the page is."""
    write_results(comparison, runs, out)
    write_predictions_csv(out, comparison.results, extra_columns(comparison.results))
    notes = _notes(runs, comparison.results)
    write_table_csv(out, comparison)
    write_markdown(out, comparison, notes)
    evidence = RunEvidence(comparison, feature_map)
    return write_report(out, comparison, _configuration(runs), read_json(runs[0] / ENVIRONMENT), notes, evidence)


def write_results(comparison: Comparison, runs: Sequence[Path], out: Path) -> None:
    """Write results.json of compared runs into `out`, and nothing else: as long as more are to come."""
    configuration = _configuration(runs)
    environment = read_json(runs[0] / ENVIRONMENT)
    write_results_json(
        out,
        comparison.results,
        verdict=comparison.verdict_text,
        chosen=chosen_in(comparison, out),
        comparisons=comparison.comparisons,
        configuration=configuration,
        environment=environment,
    )


def chosen_in(comparison: Comparison, out: Path) -> dict[str, str]:
    """Return the method that the verdict says to take: its run, seen from `out`, and what it is called there."""
    chosen = comparison.verdict.chosen
    directory = chosen.results[0].directory
    assert directory is not None  # loaded results have one
    return {
        "run": os.path.relpath(chosen.run, out),
        "folder": directory.name,
        "method": chosen.method,
        "name": chosen.name,
    }


def _configuration(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the configuration of one run, or those of several by their names."""
    configurations = {str(run): read_configuration(path) for run in runs if (path := run / CONFIGURATION).exists()}
    return next(iter(configurations.values()), {}) if len(runs) == 1 else configurations


def _notes(runs: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """Return what stage 1 had to say: how the splits were made, what could not be read, and whether other caches served
    where a method was trained; each once for all seeds.
    """
    notes: list[str] = []
    of_results = {result.directory.parent.resolve() for result in results if result.directory is not None}
    for run in runs:
        for path in files_of_seeds(run, EXTRACTION):
            # a command that was stopped has left it, of other samples maybe
            if path.parent.resolve() not in of_results:
                continue
            account = json.loads(path.read_text(encoding="utf-8"))
            notes += account["notes"]
            notes += [f"not readable: {location}: {reason}" for location, reason in account["skipped"]]
    notes += [
        said for result in results for name in (FEATURES_READ, VIEWS_READ) if (said := result.provenance.get(name))
    ]
    return once_for_all_seeds(notes)

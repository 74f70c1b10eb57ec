"""What `best` reaches in a budget: one search for each split, from images, and the mean over them.

::

    python benchmarks/best.py --data elpv --budget 3m --out searches/elpv-3m     # rows of the table in docs/best.md
    python benchmarks/best.py --quick                                            # drawn images, to see that it works

Each search is the command ``cutonce best``, with a cache of its own that is empty when it begins, so that the budget
holds the extraction. What is taken is chosen out of folds; the test images are read here, once, for the table. Searches
that `--out` has are read from there, so that a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

import numpy as np

from benchmarks.accuracy import draw
from benchmarks.measurement import ROOT
from pipeline.cli.output import echo
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import SearchSummary, read_search
from pipeline.run_layout import seed_dir
from pipeline.text import table

BASELINE = "linear-logistic-last"
"""The folder of the logistic regression on the last layer, which is the first trial."""


class Searched(NamedTuple):
    """What one search came to, in points, and how far it got."""

    seed: int
    cv: float
    test: float
    base_cv: float
    base_test: float
    summary: SearchSummary


def search(data: str, seed: int, out: Path, options: Sequence[str]) -> Searched:
    """Return what a search gives on one split, run now unless the folder has it."""
    summary = read_search(out)
    if summary is None:
        with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
            command = [sys.executable, "-m", "pipeline", "best", "--data", data, "--seeds", str(seed), *options]
            subprocess.run([*command, "--cache", folder, "--out", str(out)], check=True, cwd=ROOT)
        summary = read_search(out)
    assert summary is not None
    directory = seed_dir(out, seed)
    taken, base = (_points(directory / name) for name in (summary.chosen["folder"], BASELINE))
    return Searched(seed, *taken, *base, summary)


def _points(directory: Path) -> tuple[float, float]:
    result = Result.load(directory)
    score = result.val[result.metric.name] if result.cv is None else result.cv["mean"]
    return 100 * score, 100 * result.test[result.metric.name]


def report(searches: Sequence[Searched]) -> list[str]:
    """Return a row for each search, and the means."""
    rows = [
        [str(found.seed), str(found.summary.trials), f"{found.summary.seconds:.0f}", found.summary.chosen["name"]]
        + [f"{value:.1f}" for value in found[1:5]]
        for found in searches
    ]
    means = np.mean([found[1:5] for found in searches], axis=0)
    rows.append(["mean", "", "", "", *(f"{value:.1f}" for value in means)])
    columns = ["seed", "trials", "s", "taken", "out of folds", "test", "logistic, last layer: out of folds", "its test"]
    return [table(columns, rows, left=1)]


def main(arguments: list[str] | None = None) -> None:
    """Search each split, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="folder of the searches (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="drawn images and a few trials, to see that it works")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="options of best, after --")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        out, data, options = asked.out or Path(folder), asked.data, ["--budget", asked.budget, *asked.options]
        seeds: list[int] = asked.seeds
        if asked.quick:
            data, seeds = str(draw(Path(folder) / "drawn")), [0]
            options = ["--trials", "2", "--image-size", "32", "--cv", "3"]
        searches = [search(data, seed, out / f"seed-{seed}", options) for seed in seeds]
    echo("", *report(searches))


if __name__ == "__main__":
    main()

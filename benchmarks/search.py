"""Stage 2 on features of all depths of a network: what each head of the search takes, given the features.

::

    python benchmarks/search.py                      # 2,000 x 25,000, two classes, 5 folds
    python benchmarks/search.py --heads ridge rbf --repetitions 3

The search is what `run` fits by default on such features and what `best` begins with: ridge, logistic regression, the
linear support vector machine and that with a radial kernel, each over its grid of C with 5 folds, on the largest set
of depths (`--depths` for others). Rows are seeded numbers in float16, in blocks as wide as those of EfficientNet-Lite0,
of which some tell the classes apart, a little. Each repetition is a process of its own, in which the heads are fitted
one after the other as in a run: the products of rows are computed once, by the head that comes first. CPU seconds are
those of all threads, which say what a head costs where others use the machine too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table

HEADS = ("ridge", "logistic", "svm", "rbf")

WIDTHS = {"last": (1280,), "stage": (112, 192, 320), "block": (720,) * 6, "inner": (960,) * 19}
"""Numbers of the blocks of each kind: 24,464 in all, and what is left of the width is one more inside a block."""


def make_rows(rows: int, width: int, classes: int, noise: float) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Return features, float16 [rows, width], and labels: one direction in a hundred tells classes apart."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    means = random.standard_normal((classes, width), dtype=np.float32) * (random.random(width) < 0.01)
    features = np.empty((rows, width), np.float16)
    hidden = random.standard_normal((64, width), dtype=np.float32)  # numbers of a network are far from independent
    for start in range(0, rows, 1000):
        part = labels[start : start + 1000]
        values = random.standard_normal((len(part), width), dtype=np.float32)
        values += random.standard_normal((len(part), 64), dtype=np.float32) @ hidden / 8
        features[start : start + 1000] = values + means[part] / noise
    return features, labels


def fits(rows: int, width: int, classes: int, depths: list[str], heads: list[str]) -> dict[str, Any]:
    """Fit the heads one after the other; return the seconds and the score of each, and what is not theirs."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()
    import torch

    from stages.config.heads import HeadConfig
    from stages.fitting.feature_rows import FeatureRows
    from stages.fitting.fit_head import train_head
    from stages.fitting.problem import FitProblem
    from stages.network.graph.taps import TapBlock, TapLayout
    from stages.runtime.allocator import tune_malloc
    from stages.tasks.single_label import SingleLabel

    tune_malloc()
    features, labels = make_rows(rows, width, classes, 2.0)
    kinds = [(kind, size) for kind, sizes in WIDTHS.items() for size in sizes]
    kinds.append(("inner", width - sum(size for _, size in kinds)))
    order = ("inner", "block", "stage", "last")
    kinds.sort(key=lambda block: order.index(block[0]))
    layout = TapLayout(
        tuple(TapBlock(f"{kind}.{number}", "avg", kind, size) for number, (kind, size) in enumerate(kinds))
    )
    config = HeadConfig(cv=5, depths=tuple(depths))
    train = rows * 4 // 5
    parts = [FeatureRows(features[part], labels[part]) for part in (slice(0, train), slice(train, rows))]
    task = SingleLabel([str(number) for number in range(classes)])
    problem = FitProblem(*parts, task, config, 0, torch.device("cpu"), taps=layout)
    found: dict[str, Any] = {}
    for name in heads:
        started, computed = time.perf_counter(), time.process_time()
        fitted = train_head(name, problem)
        seconds = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - computed}
        found[name] = {**seconds, "score": float(fitted.settings["score"])}
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=25_000)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--depths", nargs="*", default=["all"])
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    arguments = {name: getattr(options, name) for name in ("rows", "width", "classes", "depths", "heads")}
    folder = Path(tempfile.gettempdir())
    runs = [in_fresh_process("search.fits", folder, **arguments) for _ in range(options.repetitions)]
    rows = []
    for name in options.heads:
        sides = [_spread([run[name][side] for run in runs]) for side in ("seconds", "cpu")]
        rows.append([name, *sides, f"{runs[0][name]['score']:.2%}"])
    totals = [_spread([sum(run[name][side] for name in options.heads) for run in runs]) for side in ("seconds", "cpu")]
    rows.append(["all", *totals, ""])
    echo(table(["head", "s", "CPU s", "out of folds"], rows, 1))


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main()

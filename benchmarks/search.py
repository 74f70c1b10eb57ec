"""Stage 2 on features of all depths of a network: what each head of the search takes, given the features.

::

    python benchmarks/search.py                      # 2,000 x 25,000, two classes, 5 folds
    python benchmarks/search.py --heads ridge rbf --repetitions 3

The search is what `run` fits by default on such features and what `best` begins with: ridge, logistic regression, the
linear support vector machine and that with a radial kernel, each over its grid of C with 5 folds, on the largest set
of depths (`--depths` for others). Rows are seeded numbers in float16, in blocks as wide as those of EfficientNet-Lite0,
and as hard as statistics of photographs (`make_rows`). Each repetition is a process of its own, in which the heads are
fitted one after the other as in a run: the products of rows are computed once, by the head that comes first. CPU
seconds are those of all threads, which say what a head costs where others use the machine too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table
from stages.network.graph.taps import TapBlock, TapKind, TapLayout

_HIDDEN = 1500
"""Hidden numbers that features are made of."""

_FALL = 1.3
"""Power by which the variances of hidden numbers fall."""

_ALONE = 0.15
"""Standard deviation of what a number has for itself, against that of what it is made of."""

_CHANCE = 0.05
"""Standard deviation of what no feature knows of a class, against that of what they do."""

HEADS = ("ridge", "logistic", "svm", "rbf")

WIDTHS: dict[TapKind, tuple[int, ...]] = {
    "last": (1280,),
    "stage": (112, 192, 320),
    "block": (720,) * 6,
    "inner": (960,) * 19,
}
"""Numbers of the blocks of each kind: 24,464 in all, and what is left of the width is one more inside a block."""


def make_rows(rows: int, width: int, classes: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Return features, float16 [rows, width], and labels, int64 [rows], as hard as those of solar cells.

    Numbers of a network hang together: a few hidden ones, of variances that fall, are in all of them, in each block
    (of `layout_of`) more or less, and numbers are skewed. Classes follow from the hidden numbers, from strong ones
    more, and from some chance. So the rows have about the spectrum of EfficientNet-Lite0's statistics on ELPV (45 % of
    the variance in the first 17 directions there 51, 86 % in the first 513 there 89), heads are right in some 88 % of
    two classes, and solvers take as many steps as there but for a fifth.
    """
    random = np.random.default_rng(0)
    count = min(_HIDDEN, rows)
    loadings = random.standard_normal((count, width), dtype=np.float32)
    stops = np.cumsum([block.width for block in layout_of(width).blocks])
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        loadings[:, start:stop] *= np.exp(0.7 * random.standard_normal((count, 1), dtype=np.float32))
    variances = np.arange(1, count + 1, dtype=np.float32) ** -_FALL
    loadings *= np.sqrt(variances / variances.sum())[:, None]
    hidden = random.standard_normal((rows, count), dtype=np.float32)
    weights = np.sqrt(variances / variances.sum())[:, None] * random.standard_normal((count, classes), dtype=np.float32)
    chances = hidden @ weights + _CHANCE * random.standard_normal((rows, classes), dtype=np.float32)
    features = np.empty((rows, width), np.float16)
    for start in range(0, rows, 1000):
        values = hidden[start : start + 1000] @ loadings
        values += _ALONE * random.standard_normal(values.shape, dtype=np.float32)
        features[start : start + 1000] = np.exp(0.5 * values.clip(-10, 10))
    return features, chances.argmax(axis=1).astype(np.int64)


def layout_of(width: int) -> TapLayout:
    """Return blocks as wide as those of EfficientNet-Lite0; what is left of the width is one more inside a block."""
    whole = sum(map(sum, WIDTHS.values()))
    share = min(width / whole, 1.0)  # of a narrow row all blocks are narrower
    kinds = [(kind, max(int(size * share), 1)) for kind, sizes in WIDTHS.items() for size in sizes]
    kinds.append(("inner", width - sum(size for _, size in kinds)))
    order = ("inner", "block", "stage", "last")
    kinds.sort(key=lambda block: order.index(block[0]))
    return TapLayout(
        tuple(TapBlock(f"{kind}.{number}", "avg", kind, size) for number, (kind, size) in enumerate(kinds))
    )


def fits(rows: int, width: int, classes: int, depths: list[str], heads: list[str]) -> dict[str, Any]:
    """Fit the heads one after the other; return the seconds and the score of each, and what is not theirs."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()
    import torch

    from stages.config.heads import HeadConfig
    from stages.fitting.feature_rows import FeatureRows
    from stages.fitting.fit_head import train_head
    from stages.fitting.problem import FitProblem
    from stages.runtime.allocator import tune_malloc
    from stages.tasks.single_label import SingleLabel

    tune_malloc()
    features, labels = make_rows(rows, width, classes)
    layout = layout_of(width)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=25_000)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--depths", nargs="*", default=["all"])
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="200 rows of 2,000 numbers, once")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.width, options.repetitions = 200, 2000, 1
    given = {name: getattr(options, name) for name in ("rows", "width", "classes", "depths", "heads")}
    folder = Path(tempfile.gettempdir())
    runs = [in_fresh_process("search.fits", folder, **given) for _ in range(options.repetitions)]
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

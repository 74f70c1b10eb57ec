"""Stage 2 where features are many and wide: seconds and peak memory of each head that is fitted to them.

::

    python benchmarks/many_rows.py                             # 50,000 x 10,000, 100 classes: half an hour
    python benchmarks/many_rows.py --heads ridge --rows 20000
    python benchmarks/many_rows.py --rows 100000 --width 1280 --classes 10 --max-memory-gb 0.06   # streamed

Rows are seeded numbers in float16, in memory as they are read from a cache: a few hidden numbers that are in all, of
which classes follow, and noise. Each head is fitted in a process of its own with the defaults of that size: settings
are compared on the validation split, a fifth of the rows. The peak is that of the process, its features included, as
each result of a run says it (`stages.runtime.cost`); making the features is not in the seconds, and is not the peak.
With `--max-memory-gb` rows lie in a cache on the disk, and heads read them from there, again and again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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

HEADS = ("ridge", "logistic", "sgd")

_HIDDEN = 200
"""Hidden numbers that features are made of."""

_APART = 0.35
"""How far the classes lie from each other, against the spread of each."""

_PART = 2000
"""Rows that are drawn at a time."""


def make_rows(rows: int, width: int, classes: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Return features, float16 [rows, width], and labels, int64 [rows].

    Of 50,000 rows `ridge` finds 94 % at 10,000 numbers, 75 % at 600.
    """
    random = np.random.default_rng(0)
    fall = np.arange(1, _HIDDEN + 1, dtype=np.float32) ** -0.5
    loadings = fall[:, None] * random.standard_normal((_HIDDEN, width), dtype=np.float32) / np.sqrt((fall**2).sum())
    means = random.standard_normal((classes, _HIDDEN), dtype=np.float32)
    labels = random.integers(0, classes, rows)
    features = np.empty((rows, width), np.float16)
    for start in range(0, rows, _PART):
        part = labels[start : start + _PART]
        hidden = _APART * means[part] + random.standard_normal((len(part), _HIDDEN), dtype=np.float32)
        values = hidden @ loadings + random.standard_normal((len(part), width), dtype=np.float32)
        features[start : start + _PART] = values
    return features, labels


def store(rows: int, width: int, classes: int, folder: str) -> None:
    """Leave the rows in a cache, and their labels beside it."""
    from cache import FeatureCache

    features, labels = make_rows(rows, width, classes)
    keys = _keys(rows)
    with FeatureCache(Path(folder), _spec()).writer() as writer:
        for start in range(0, rows, _PART):
            writer.append(keys[start : start + _PART], features[start : start + _PART])
    np.save(Path(folder) / "labels.npy", labels)


def _keys(rows: int) -> list[str]:
    from cache import key_of_bytes

    return [key_of_bytes(str(number).encode()) for number in range(rows)]


def _spec() -> Any:
    from cache import Spec

    names = ("backbone", "weights", "cut", "pooling", "precision", "decoder")
    return Spec(**dict.fromkeys(names, "none"), preprocessing={}, views=None, dtype="float16")


def fit(
    rows: int, width: int, classes: int, head: str, folder: str | None = None, gigabytes: float = 0.0
) -> dict[str, Any]:
    """Fit a head to rows in memory, or in a cache; return what it took, and how good it is on validation."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()
    import torch

    from stages.config.heads import HeadConfig
    from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, StreamedFeatureRows
    from stages.fitting.fit_head import train_head
    from stages.fitting.problem import FitProblem
    from stages.runtime.allocator import tune_malloc
    from stages.runtime.cost import measured
    from stages.tasks.single_label import SingleLabel

    tune_malloc()
    places = slice(0, rows * 4 // 5), slice(rows * 4 // 5, rows)
    parts: list[AnyFeatureRows]
    if folder is None:
        features, labels = make_rows(rows, width, classes)
        parts = [FeatureRows(features[part], labels[part]) for part in places]
    else:
        from cache import FeatureCache

        cache, keys, labels = FeatureCache(Path(folder), _spec()), _keys(rows), np.load(Path(folder) / "labels.npy")
        parts = [StreamedFeatureRows([cache], keys[part], labels[part], int(gigabytes * 1e9)) for part in places]
    task = SingleLabel([str(number) for number in range(classes)])
    problem = FitProblem(*parts, task, HeadConfig(), 0, torch.device("cpu"))
    with measured() as cost:
        fitted = train_head(head, problem)
    found = {"seconds": cost.seconds, "cpu": cost.cpu_seconds, "peak": cost.peak_memory_bytes}
    return {**found, "score": fitted.val_score, "tried": len(fitted.selection), "C": fitted.settings.get("C")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--max-memory-gb", type=float, help="leave rows in a cache, of which so much may be in memory")
    parser.add_argument("--quick", action="store_true", help="12,000 rows of 50 numbers, five classes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.width, options.classes = 12_000, 50, 5
    given = {name: getattr(options, name) for name in ("rows", "width", "classes")}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        if options.max_memory_gb is not None:
            in_fresh_process("many_rows.store", Path(folder), **given, folder=folder)
            given |= {"folder": folder, "gigabytes": options.max_memory_gb}
        for head in options.heads:
            found = in_fresh_process("many_rows.fit", Path(folder), **given, head=head)
            took = [f"{found['seconds']:.0f}", f"{found['cpu']:.0f}", f"{found['peak'] / 1e9:.1f}"]
            lines.append([head, *took, f"{found['tried']}", f"{found['score']:.1%}"])
    echo(table(["head", "s", "CPU s", "peak GB", "settings", "on validation"], lines, 1))


if __name__ == "__main__":
    main()

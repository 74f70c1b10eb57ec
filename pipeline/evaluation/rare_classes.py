"""Classes and labels of which hardly any test image is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cache.errors import listed
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.results import Result

FEW = 5
"""Test images of a class below which nothing is known of it: with four, all right, its recall may still be half."""


def rare_class_words(row: MethodSummary) -> list[str]:
    """Warn where fewer than `FEW` test images, under any seed, are of a class, or have a label."""
    by_seed = [counts for result in row.results if (counts := _counts(result)) is not None]
    if not by_seed:
        return []
    fewest = np.min(by_seed, axis=0)
    names = row.results[0].class_names
    rare = [f"{name} ({count})" for name, count in zip(names, fewest.tolist(), strict=True) if count < FEW]
    if not rare:
        return []
    return [
        f"Warning: fewer than {FEW} test {row.unit}s are of {listed(rare)}. What is said of these alone, and metrics "
        f"in which all classes count alike, hang on single {row.unit}s there."
    ]


def _counts(result: Result) -> NDArray[np.int64] | None:
    """Return how many test samples are of each class, or have each label; None where the task has no classes."""
    statistics = result.predictions.statistics
    if not result.class_names or "target" not in (statistics.dtype.names or ()):
        return None
    strata = result.task.strata(statistics["target"])
    if strata is None:
        return None
    if strata.ndim == 2:
        return np.asarray(strata.sum(axis=0))
    return np.bincount(strata, minlength=len(result.class_names))

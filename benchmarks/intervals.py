"""How often 95 % intervals hold the true score, and how often methods of equal worth are called unlike.

::

    python benchmarks/intervals.py            # half an hour on one core
    python benchmarks/intervals.py --quick    # two minutes, to see that it works

Independent images: exactly, by the binomial distribution, over accuracies of 0.5 to 0.99 and 30 to 3,000 images.
Groups: the share of right images of each is drawn from a beta distribution, by the correlation of two images of a
group, 0 to 0.5; 2 to 50 groups of 3, 20 or 100 images. Other metrics: drawn classes, labels and numbers, whose true
score is that of 100,000 samples. Families: five methods of equal worth, four of them against the first, with images and
groups that are easy or hard for all of them; how often one or more are called more than chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.output import echo
from pipeline.text import table
from stages.tasks.base import Metric, mean_metric
from stages.tasks.intervals import interval
from stages.tasks.multi_label import MultiLabel
from stages.tasks.paired import compare, holm
from stages.tasks.proportions import wilson
from stages.tasks.regression import Regression
from stages.tasks.seeds import widening
from stages.tasks.single_label import SingleLabel

ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
CORRELATIONS = (0.0, 0.05, 0.2, 0.5)
RIGHT = mean_metric("accuracy", "accuracy", lambda correct: np.asarray(correct, dtype=bool))

Make = Callable[[np.random.Generator, int], Any]


def independent_images() -> list[list[str]]:
    """Return for each number of images the least and the mean coverage over accuracies, computed exactly."""
    shares, lines = np.linspace(0.5, 0.99, 99), []
    for number in (30, 50, 100, 300, 1000, 3000):
        hits = np.arange(number + 1)
        low, high = np.array([wilson(hit / number, number, norm.ppf(0.975)) for hit in hits.tolist()]).T
        held = [float(binom.pmf(hits, number, share)[(low <= share) & (share <= high)].sum()) for share in shares]
        lines.append([f"{number:,} images", *_least_and_mean(held)])
    return lines


def grouped_images(draws: int) -> list[list[str]]:
    """Return for each number of groups the least and the mean coverage over accuracies, correlations and sizes."""
    random, lines = np.random.default_rng(0), []
    for groups in (2, 3, 5, 9, 10, 20, 50):
        held = [
            _held(random, draws, groups, size, share, correlation)
            for size in (3, 20, 100)
            for share in ACCURACIES
            for correlation in CORRELATIONS
        ]
        lines.append([f"{groups} groups", *_least_and_mean(held)])
    return lines


def other_metrics(draws: int) -> list[list[str]]:
    """Return for each metric the coverage of independent samples, near 1 and not."""
    two, three, labels = SingleLabel("ab"), SingleLabel("abc"), MultiLabel("abc", [0.5] * 3)
    numbers = Regression(("x",), (0.0,), (1.0,))
    makes: list[tuple[str, Metric, Make]] = [
        ("macro-F1", three.metrics["f1_macro"], lambda random, n: _classes(random, n, three, 1.5)),
        ("macro-F1, nearly 1", three.metrics["f1_macro"], lambda random, n: _classes(random, n, three, 3.5)),
        ("AUC", two.metrics["auc_macro"], lambda random, n: _classes(random, n, two, 1.0)),
        ("AUC, nearly 1", two.metrics["auc_macro"], lambda random, n: _classes(random, n, two, 2.5)),
        ("mAP", labels.metrics["map_macro"], lambda random, n: _labels(random, n, labels)),
        ("R²", numbers.metrics["r2"], lambda random, n: _numbers(random, n, numbers)),
        ("mean error", numbers.metrics["mae"], lambda random, n: _numbers(random, n, numbers)),
    ]
    lines = []
    for name, metric, make in makes:
        truth = metric.score(make(np.random.default_rng(1), 100_000))
        cells = []
        for number in (30, 100, 300):
            random = np.random.default_rng(number)
            ends = [interval(metric, make(random, number), resamples=1000)[:2] for _ in range(draws)]
            cells.append(f"{100 * np.mean([low <= truth <= high for low, high in ends]):.1f}")
        lines.append([name, f"{truth:.3f}", *cells])
    return lines


def families(draws: int) -> list[list[str]]:
    """Return how often one of four methods or more is called unlike a fifth that is as good."""
    lines = []
    for name, groups, size, seeds in (
        ("300 images", 0, 300, 1),
        ("12 groups of 20", 12, 20, 1),
        ("5 groups of 40", 5, 40, 1),
        ("300 images, 3 seeds of one split", 0, 300, 3),
        ("300 images, 3 seeds that split anew", 0, 300, 3),
    ):
        random = np.random.default_rng(3)
        called = sum(lowest_p(random, groups, size, seeds, resplit=name.endswith("anew")) < 0.05 for _ in range(draws))
        lines.append([name, f"{100 * called / draws:.1f}"])
    return lines


def lowest_p(random: np.random.Generator, groups: int, size: int, seeds: int, *, resplit: bool) -> float:
    """Return the least of Holm's p-values of four methods against a fifth that is as good as they are."""
    count, methods = max(groups, 1) * size, 5
    pool = 5 * count if resplit else count  # where seeds split anew, a fifth of all images is tested by each
    difficulty = random.normal(1.5, 1.0, pool)
    of_group = np.repeat(np.arange(groups), size) if groups else None
    if of_group is not None:
        difficulty += random.normal(0, 1.0, groups)[of_group]
    parts, right = [], []
    for _ in range(seeds):
        images = random.permutation(pool)[:count] if resplit else np.arange(count)
        # what one training is better or worse by as a whole; of one seed, these very heads are what is compared
        training = random.normal(0, 0.15 if seeds > 1 else 0.0, (methods, 1))
        parts.append(images)
        right.append(difficulty[images] + training + random.normal(0, 1.0, (methods, count)) > 0)
    correct, images = np.concatenate(right, axis=1), np.concatenate(parts)
    units: NDArray[Any] | None = of_group if groups else images if seeds > 1 else None
    p_values = []
    for other in correct[1:]:
        factor = 1.0
        if seeds > 1 and units is not None:
            of_seed = np.repeat(np.arange(seeds), count)
            factor = widening(RIGHT, other, units, of_seed, resplit=0.25 if resplit else None, against=correct[0])
        p_values.append(compare(RIGHT, other, correct[0], units, widened=factor).p_value)
    return min(holm(p_values))


def _held(random: np.random.Generator, draws: int, groups: int, size: int, share: float, correlation: float) -> float:
    numbers, total, held = np.repeat(np.arange(groups), size), 1 / max(correlation, 1e-9) - 1, 0
    for _ in range(draws):
        shares = random.beta(share * total, (1 - share) * total, groups)
        low, high = interval(RIGHT, (random.random((groups, size)) < shares[:, None]).ravel(), numbers)[:2]
        held += low <= share <= high
    return held / draws


def _least_and_mean(held: list[float]) -> list[str]:
    return [f"{100 * min(held):.1f}", f"{100 * float(np.mean(held)):.1f}"]


def _classes(random: np.random.Generator, number: int, task: SingleLabel, skill: float) -> Any:
    target = random.integers(task.out_features, size=number)
    logits = random.normal(size=(number, task.out_features)) + skill * np.eye(task.out_features)[target]
    return task.statistic(torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(target))


def _labels(random: np.random.Generator, number: int, task: MultiLabel) -> Any:
    target = (random.random((number, 3)) < 0.3).astype(np.float32)
    logits = random.normal(size=(number, 3)) + 2 * target - 1.8
    return task.statistic(torch.from_numpy(logits).sigmoid(), torch.from_numpy(target))


def _numbers(random: np.random.Generator, number: int, task: Regression) -> Any:
    target = random.normal(size=(number, 1))
    return task.statistic(torch.from_numpy(target + 0.5 * random.normal(size=(number, 1))), torch.from_numpy(target))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few drawings")
    quick = parser.parse_args().quick
    echo(table(["accuracy, % held", "least", "mean"], independent_images()))
    echo("")
    echo(table(["accuracy over groups, % held", "least", "mean"], grouped_images(20 if quick else 1000)))
    echo("")
    echo(table(["% held", "true", "30 samples", "100", "300"], other_metrics(20 if quick else 400)))
    echo("")
    echo(table(["methods of equal worth, 5", "% of families with one called unlike"], families(50 if quick else 400)))


if __name__ == "__main__":
    main()

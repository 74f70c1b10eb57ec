"""What the choice of a head loses on test samples against the truly best head, and what choosing by validation lost.

::

    python benchmarks/ranking.py --data elpv photos/ --splits 10        # the table of docs/trust.md
    python benchmarks/ranking.py --quick                                # synthetic sets, a little, to see that it works

In each split of each set the heads are trained, folded and chosen between as `run` does it. The truly best head of a
set is the one with the highest mean score on the test samples of all splits; what is lost in a split is its score there
less that of the head that was chosen. Before, the head with the highest score on the validation split was taken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

from pipeline.evaluation.comparison import choose_result
from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result, evaluate_test
from pipeline.text import table
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import FitProblem, head_method, head_probabilities, train_foldable_head
from stages.tasks.single_label import SingleLabel

HEADS = ("logistic", "svm", "ridge", "rbf", "knn", "mlp")
QUICK = ("ridge", "ncm", "knn")
TARGETS = "at most 0.5 points in the mean of all sets, at most 1.5 in the worst"


class Samples(NamedTuple):
    """Features float32 [n, d] and classes int64 [n] of a set."""

    features: np.ndarray
    labels: np.ndarray


def planes(count, random):
    """Two classes on either side of a plane, with noise: linear heads are right."""
    rows = random.normal(size=(count, 40))
    return Samples(rows, (rows @ random.normal(size=40) + random.normal(0, 3, count) > 0).astype(np.int64))


def rings(count, random):
    """Two classes within and beyond a sphere: kernels are right."""
    rows = random.normal(size=(count, 12))
    return Samples(rows, (np.square(rows).sum(axis=1) + random.normal(0, 2, count) > 11.3).astype(np.int64))


def clusters(count, random):
    """Six classes of three clusters each, of unlike sizes: neighbors are right."""
    labels = random.choice(6, count, p=np.arange(1, 7) / 21)
    centers = 1.3 * random.normal(size=(6, 3, 20))
    return Samples(centers[labels, random.integers(3, size=count)] + random.normal(size=(count, 20)), labels)


def wide(count, random):
    """Three classes told by ten of three hundred numbers: whatever fits everything is wrong."""
    labels = random.integers(3, size=count)
    means = np.zeros((3, 300))
    means[:, :10] = 0.6 * random.normal(size=(3, 10))
    return Samples(means[labels] + random.normal(size=(count, 300)), labels)


SYNTHETIC = (planes, rings, clusters, wide)


def measure(samples, splits, heads, options, trained_on):
    """Return test scores, [splits, heads], and which head was chosen in each split, now and before.

    Of each split `trained_on` samples are train and validation, four to one; all others are test.
    """
    features, labels = samples.features.astype(np.float32), samples.labels
    task = SingleLabel([str(number) for number in range(labels.max() + 1)])
    scores, chosen, before = np.zeros((splits, len(heads))), [], []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(labels))
        parts = np.split(order, [int(0.8 * trained_on), trained_on])
        train, val, test = (FeatureRows(features[part], labels[part]) for part in parts)
        problem = FitProblem(train, val, task, options, split, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            results = [_result(name, problem, test, parts, Path(folder)) for name in heads]
            names = [result.name for result in results]
            scores[split] = [result.test["accuracy"] for result in results]
            chosen.append(names.index(choose_result(results).chosen.name))
            before.append(int(np.argmax([result.val["accuracy"] for result in results])))
    return scores, np.array(chosen), np.array(before)


def lost(scores, chosen):
    """Return the points lost in each split against the truly best head."""
    best = scores.mean(axis=0).argmax()
    return 100 * (scores[:, best] - scores[np.arange(len(scores)), chosen])


def _result(name, problem, test, parts, run):
    """Train a head, and leave what `run` leaves of it."""
    task = problem.task
    started = time.perf_counter()
    trained, fold = train_foldable_head(name, problem)
    trained_in, out_of_fold = time.perf_counter() - started, fold()
    started = time.perf_counter()
    activated = head_probabilities(trained.module, test, task)
    seconds = {"extract": 0.01 * len(problem.labels), "train": trained_in, "evaluate": time.perf_counter() - started}

    def predicted(said, rows, places):
        statistics = task.statistic(torch.from_numpy(said), torch.from_numpy(rows.labels))
        return Predictions(task, [f"{place:032d}" for place in places], [str(place) for place in places], statistics)

    predictions, validation = (
        predicted(activated, test, parts[2]),
        predicted(trained.val_activated, problem.val, parts[1]),
    )
    folded = None
    if out_of_fold is not None:
        repeats, labels = len(out_of_fold.folds), torch.from_numpy(problem.labels)
        places = [f"{place:032d}" for place in np.concatenate(parts[:2])]
        folded = OutOfFoldPredictions(
            task,
            np.tile(np.array(places, "S32"), repeats),
            out_of_fold.folds.reshape(-1),
            np.repeat(np.arange(repeats), len(labels)),
            np.concatenate([task.statistic(torch.from_numpy(said), labels) for said in out_of_fold.activated(task)]),
        )
    result = Result(
        method=head_method(name),
        name=name,
        seed=0,
        samples={"train": len(parts[0]), "val": len(parts[1]), "test": len(parts[2])},
        task=task,
        val={"accuracy": trained.val_score},
        test=evaluate_test(task, predictions.statistics, 0),
        seconds=sum(seconds.values()),
        seconds_by_stage=seconds,
        cpu_seconds=0.0,
        peak_memory_bytes=0,
        trainable_parameters=trained.trainable_parameters,
        backbone_forwards=0,
        extraction_forwards=len(problem.labels),
        backbone="",
        weights="",
        cut=None,
        pool=None,
        image_size=None,
    )
    directory = run / "seed-0" / f"{result.method}-{name}"
    result.save(directory, predictions, validation=validation, out_of_fold=folded)
    return Result.load(directory)


def features_of(data, cache):
    """Return the features of a data set by the default network, from the cache or into it."""
    from pipeline.cli.extract import extract
    from pipeline.experiment.setup.run_setup import make_manifest
    from stages.config.data import DataConfig
    from stages.config.features import FeatureConfig
    from stages.extraction.extractor import build_extractor
    from stages.extraction.read_features import drop_unreadable, read_features

    source, options = DataConfig(data), FeatureConfig(cache=cache)
    extract(data=source, features=options)
    extractor = build_extractor(options)
    manifest = drop_unreadable(extractor, make_manifest(source, options, 0))
    return Samples(np.asarray(read_features(extractor, manifest)), manifest.targets)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="beside the synthetic sets: what `--data` takes")
    parser.add_argument(
        "--cache", type=Path, default=Path("cutonce-cache"), help="of features (default: cutonce-cache)"
    )
    parser.add_argument("--splits", type=int, default=10, help="of each set (default: 10)")
    parser.add_argument("--samples", type=int, default=500, help="of train and validation in a split (default: 500)")
    parser.add_argument("--quick", action="store_true", help="three heads, one split, to see that it works")
    options = parser.parse_args(arguments)
    heads, splits = (QUICK, 1) if options.quick else (HEADS, options.splits)
    config = HeadConfig(c_values=(1e-3, 1e-1), n_neighbors=(1, 10)) if options.quick else HeadConfig()
    sets = {made.__name__: made(options.samples + 2000, np.random.default_rng(0)) for made in SYNTHETIC}
    sets |= {Path(data).name: features_of(data, options.cache) for data in options.data}
    rows, means = [], []
    for name, samples in sets.items():
        scores, chosen, before = measure(samples, splits, heads, config, options.samples)
        now, then = lost(scores, chosen).mean(), lost(scores, before).mean()
        means.append((now, then))
        best = heads[scores.mean(axis=0).argmax()]
        rows.append([name, best, f"{now:.2f}", f"{then:.2f}", " ".join(heads[number] for number in chosen)])
        print(rows[-1], file=sys.stderr, flush=True)
    mean, mean_before = np.mean(means, axis=0)
    rows.append(["all", "", f"{mean:.2f}", f"{mean_before:.2f}", TARGETS])
    print(table(["set", "truly best", "points lost", "by validation", "chosen"], rows))


if __name__ == "__main__":
    main()

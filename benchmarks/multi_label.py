"""What several labels a sample cost in stage 2, side by side with one class a sample, and with scikit-learn's way.

::

    python benchmarks/multi_label.py           # 50,000 x 1,280 features, 80 labels or 80 classes; an hour
    python benchmarks/multi_label.py --quick   # a minute, to see that it works

The same features, held-out rows and 40 settings of logistic regression (values of C, features as they are and
standardized), once with 80 classes, by accuracy, and once with 80 labels, from frequent to rare ones, by average
precision; the best setting is fitted again to all rows. Each side runs in a fresh process, in turn. The second table is
of a smaller size, where scikit-learn's `OneVsRestClassifier` of `LogisticRegression` fits every setting too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table

VALUES = tuple(float(value) for value in np.geomspace(1e-5, 1, 20))
SCALERS = ("none", "standard")
HELD_OUT = 0.2


def make(folder: str, rows: int, width: int, count: int) -> None:
    """Write features like those after a ReLU and a pooling, and of each row one class and several labels."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, count, rows)
    latent = min(width, 96)  # features of networks vary in far fewer directions than they have numbers
    means = generator.normal(size=(count, latent)).astype(np.float32)
    mixing = generator.normal(size=(latent, width)).astype(np.float32) / np.sqrt(latent)
    planes = generator.normal(size=(latent, count)).astype(np.float32)
    features, scores = np.empty((rows, width), np.float32), np.empty((rows, count), np.float32)
    for start in range(0, rows, 4096):
        part = slice(start, min(start + 4096, rows))
        size = part.stop - start
        inner = means[classes[part]] + 3 * generator.normal(size=(size, latent)).astype(np.float32)
        outer = inner @ mixing + 0.5 * generator.normal(size=(size, width)).astype(np.float32)
        features[part] = np.maximum(outer, 0) * np.linspace(0.2, 2, width, dtype=np.float32)
        scores[part] = inner @ planes + 20 * generator.normal(size=(size, count)).astype(np.float32)
    shares = np.geomspace(0.3, 0.01, count)
    cutoffs = np.array([np.quantile(column, 1 - share) for column, share in zip(scores.T, shares, strict=True)])
    np.save(Path(folder) / "features.npy", features)
    np.save(Path(folder) / "classes.npy", classes)
    np.save(Path(folder) / "labels.npy", (scores > cutoffs).astype(np.float32))


def side(name: str, folder: str) -> dict:
    """Choose among the settings and fit the best again as one side does it; called in a process of its own."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()
    from stages.fitting.fit_head import get_fit

    get_fit("logistic")  # imports are not what is measured
    features = np.load(Path(folder) / "features.npy")
    targets = np.load(Path(folder) / ("classes.npy" if name == "classes" else "labels.npy"))
    started, cpu_started = time.perf_counter(), time.process_time()
    score = _one_vs_rest(features, targets) if name == "scikit-learn" else _train_head(features, targets)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,  # what a busy machine tells, too
        "score": score,
    }


def _train_head(features, targets):
    import torch

    from stages.config.heads import HeadConfig
    from stages.fitting.fit_head import FeatureRows, FitProblem, train_head
    from stages.tasks.multi_label import MultiLabel
    from stages.tasks.single_label import SingleLabel

    size = round(len(targets) * (1 - HELD_OUT))
    count = targets.shape[1] if targets.ndim > 1 else int(targets.max()) + 1
    task = (MultiLabel if targets.ndim > 1 else SingleLabel)([str(number) for number in range(count)])
    rows = [FeatureRows(features[part], targets[part]) for part in (slice(size), slice(size, None))]
    options = HeadConfig(c_values=VALUES, scalers=SCALERS, cv=0)
    return train_head("logistic", FitProblem(*rows, task, options, 0, torch.device("cpu"))).settings["score"]


def _one_vs_rest(features, targets):
    import warnings

    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def model(scaler, value):
        classifier = OneVsRestClassifier(LogisticRegression(C=value, max_iter=1000), n_jobs=-1)
        return make_pipeline(StandardScaler(), classifier) if scaler == "standard" else classifier

    size = round(len(targets) * (1 - HELD_OUT))
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models at the weak end that are stopped before they converge
        for setting in ((scaler, value) for scaler in SCALERS for value in VALUES):
            margins = model(*setting).fit(features[:size], targets[:size]).decision_function(features[size:])
            scores[setting] = average_precision_score(targets[size:], margins, average="macro")
        model(*max(scores, key=scores.get)).fit(features, targets)
    return max(scores.values())


TITLES = {
    "classes": "one class a sample",
    "labels": "several labels a sample",
    "scikit-learn": "OneVsRestClassifier in a loop",
}


def compare(data: dict, sides: list[str], repetitions: int) -> None:
    """Measure the sides in turn and print the table; the first is what the others are measured against."""
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        in_fresh_process("multi_label.make", Path(folder), folder=folder, **data)
        for repetition in range(repetitions):
            for name in sides[:: -1 if repetition % 2 else 1]:
                runs[name].append(in_fresh_process("multi_label.side", Path(folder), name=name, folder=folder))
                print(f"  {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    rows = []
    for name in sides:
        ratios = [run["seconds"] / first["seconds"] for run, first in zip(runs[name], runs[sides[0]], strict=True)]
        seconds, cpu_seconds, score = (
            statistics.median(run[quantity] for run in runs[name]) for quantity in ("seconds", "cpu_seconds", "score")
        )
        times = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append([TITLES[name], f"{seconds:,.1f}", times, f"{cpu_seconds:,.1f}", f"{score:.2%}"])
    echo("", "{rows:,} x {width:,} features, {count} classes or labels, 40 settings and a refit".format(**data), "")
    echo(table(["way", "s", "times the first", "CPU s", "held-out score"], rows, 1))


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, help="runs of each side (default: 3; 1 with --quick)")
    parser.add_argument("--only", choices=["large", "small"], help="one table alone")
    parser.add_argument("--quick", action="store_true", help="little data: to see that it works")
    options = parser.parse_args()
    repetitions = options.repetitions or (1 if options.quick else 3)
    large = {"rows": 50_000, "width": 1280, "count": 80}
    small = {"rows": 4000, "width": 256, "count": 20}
    if options.quick:
        large, small = (
            {**large, "rows": 2000, "width": 64, "count": 10},
            {**small, "rows": 400, "width": 32, "count": 4},
        )
    if options.only != "small":
        compare(large, ["classes", "labels"], repetitions)
    if options.only != "large":
        compare(small, ["labels", "scikit-learn"], repetitions)
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("", "; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


if __name__ == "__main__":
    main()

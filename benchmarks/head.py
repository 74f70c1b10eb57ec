"""How fast stage 2 finds the best linear head, side by side with scikit-learn's as a user writes it.

::

    python benchmarks/head.py                # 50,000 x 1,280 features of 100 classes; hours, nearly all scikit-learn's
    python benchmarks/head.py --sample 4     # scikit-learn fits 4 of the 40 settings and ours; the rest is reckoned
    python benchmarks/head.py --quick        # minutes, to see that it works

All sides choose among the same settings (values of C, features as they are and standardised) by accuracy on the same
held-out rows, and fit the best one again to all rows: logistic regression here; scikit-learn's `LogisticRegression`
in a loop; the same with one BLAS thread for each fit and the fits side by side through joblib. Each runs in a fresh
process, in turn; features are float32 in memory for all. Peak memory is what a process held at most above what it held
before the features were loaded, which are part of it. The last table is of data of the size of ELPV's, where settings
are cross-validated.
"""

from __future__ import annotations

import argparse
import resource
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

VALUES = [float(value) for value in np.geomspace(1e-5, 1, 20)]
SCALERS = ("none", "standard")
SETTINGS = [(scaler, value) for scaler in SCALERS for value in VALUES]
HELD_OUT = 0.2


def make(folder: str, rows: int, width: int, classes: int, noise: float) -> None:
    """Write features like those after a ReLU and a pooling, about classes that overlap, and labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    latent = min(width, 96)  # features of networks vary in far fewer directions than they have numbers
    means = generator.normal(size=(classes, latent)).astype(np.float32)
    mixing = generator.normal(size=(latent, width)).astype(np.float32) / np.sqrt(latent)
    features = np.empty((rows, width), dtype=np.float32)
    for start in range(0, rows, 4096):
        part = labels[start : start + 4096]
        inner = means[part] + noise * generator.normal(size=(len(part), latent)).astype(np.float32)
        outer = inner @ mixing + 0.5 * generator.normal(size=(len(part), width)).astype(np.float32)
        features[start : start + 4096] = np.maximum(outer, 0) * np.linspace(0.2, 2, width, dtype=np.float32)
    np.save(Path(folder) / "features.npy", features)
    np.save(Path(folder) / "labels.npy", labels)


def side(name: str, folder: str, settings: list[tuple[str, float]], folds: int = 0) -> dict:
    """Choose among settings and fit the best again as one side does it; called in a process of its own."""
    if name == "cutonce":
        from stages.runtime.openmp import configure_openmp

        configure_openmp()
        from stages.fitting.fit_head import get_fit

        get_fit("logistic")  # imports are not what is measured
    else:
        import sklearn.linear_model
        import sklearn.preprocessing  # noqa: F401
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features, labels = (np.load(Path(folder) / f"{array_name}.npy") for array_name in ("features", "labels"))
    started = time.perf_counter()
    score, refit_seconds, best_setting = SIDES[name](features, labels, [tuple(setting) for setting in settings], folds)
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before) * (
        1 if sys.platform == "darwin" else 1024
    )
    return {
        "seconds": seconds,
        "refit": refit_seconds,
        "score": score,
        "chosen": best_setting,
        "memory": peak / features.nbytes,
    }


def _cutonce(features, labels, settings, folds):
    import torch

    from stages.config.heads import HeadConfig
    from stages.fitting.fit_head import FeatureRows, FitProblem, train_head
    from stages.tasks.single_label import SingleLabel

    values = tuple(sorted({value for _, value in settings}))
    options = HeadConfig(c_values=values, scalers=SCALERS, cv=folds)
    num_train = _held_out_from(labels)
    rows = FeatureRows(features[:num_train], labels[:num_train]), FeatureRows(features[num_train:], labels[num_train:])
    task = SingleLabel([str(number) for number in range(int(labels.max()) + 1)])
    result = train_head("logistic", FitProblem(*rows, task, options, 0, torch.device("cpu")))
    return result.settings["score"], 0.0, (result.settings["scaler"], result.settings["C"])


def _loop(features, labels, settings, folds):
    scores = [_score(features, labels, folds, *setting) for setting in settings]
    best = settings[int(np.argmax(scores))]
    return max(scores), _refit(features, labels, best), best


def _side_by_side(features, labels, settings, folds):
    from joblib import Parallel, delayed

    scores = Parallel(n_jobs=-1, prefer="threads")(
        delayed(_score_alone)(features, labels, folds, *setting) for setting in settings
    )
    best = settings[int(np.argmax(scores))]
    return max(scores), _refit(features, labels, best), best


def _score_alone(features, labels, folds, scaler, value):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return _score(features, labels, folds, scaler, value)


def _score(features, labels, folds, scaler, value):
    """Return the accuracy of one setting on the held-out rows, or over the folds."""
    import warnings

    from sklearn.model_selection import StratifiedKFold, cross_val_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models at the weak end that are stopped before they converge
        if folds:
            splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
            return cross_val_score(_model(scaler, value), features, labels, cv=splitter).mean()
        num_train = _held_out_from(labels)
        return (
            _model(scaler, value)
            .fit(features[:num_train], labels[:num_train])
            .score(features[num_train:], labels[num_train:])
        )


def _refit(features, labels, setting):
    """Fit the best setting to all rows; return the seconds."""
    started = time.perf_counter()
    _model(*setting).fit(features, labels)
    return time.perf_counter() - started


def _model(scaler, value):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=value, max_iter=1000)
    return make_pipeline(StandardScaler(), model) if scaler == "standard" else model


def _held_out_from(labels):
    return round(len(labels) * (1 - HELD_OUT))


SIDES = {"cutonce": _cutonce, "scikit-learn": _loop, "joblib": _side_by_side}
TITLES = {
    "cutonce": "train_head",
    "scikit-learn": "LogisticRegression in a loop",
    "joblib": "the same, one BLAS thread a fit, joblib",
}


def compare(title: str, data: dict, folds: int, repetitions: int, sample: int | None, skip: list[str]) -> None:
    """Measure every side in turn and print the table."""
    runs_by_side: dict[str, list[dict]] = {name: [] for name in SIDES if name not in skip}
    sampled_settings = SETTINGS
    if sample is not None:
        sampled_settings = [
            SETTINGS[index] for index in np.linspace(0, len(SETTINGS) - 1, 2 * sample + 1).astype(int)[1::2]
        ]
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        in_fresh_process("head.make", Path(folder), folder=folder, **data)
        for repetition in range(repetitions):
            for name in list(runs_by_side)[:: -1 if repetition % 2 else 1]:
                best_of_ours = [tuple(run["chosen"]) for run in runs_by_side["cutonce"][:1]]
                settings = SETTINGS if name == "cutonce" else list(dict.fromkeys([*sampled_settings, *best_of_ours]))
                run = in_fresh_process(
                    "head.side", Path(folder), name=name, folder=folder, settings=settings, folds=folds
                )
                if len(settings) < len(SETTINGS):
                    run["seconds"] = (run["seconds"] - run["refit"]) * len(SETTINGS) / len(settings) + run["refit"]
                runs_by_side[name].append(run)
                print(f"  {name}: {run}", file=sys.stderr, flush=True)
    rows = []
    for name, runs in runs_by_side.items():
        ratios = [
            other_run["seconds"] / own_run["seconds"]
            for other_run, own_run in zip(runs, runs_by_side["cutonce"], strict=True)
        ]
        seconds, score, memory = (
            statistics.median(run[quantity] for run in runs) for quantity in ("seconds", "score", "memory")
        )
        times = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        rows.append([TITLES[name], f"{seconds:,.1f}", times, f"{score:.2%}", f"{memory:.2f}"])
    echo("", title, "")
    echo(table(["way", "s", "times ours", "held-out accuracy", "peak memory, of the features'"], rows, 1))
    if sample is not None:
        echo(
            f"scikit-learn: {len(sampled_settings)} of the {len(SETTINGS)} settings were fitted, evenly spread, and "
            "the one that "
            "train_head chose; time by their share."
        )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, help="runs of each side (default: 3; 1 with --quick)")
    parser.add_argument("--sample", type=int, help="settings that scikit-learn's sides fit (default: all)")
    parser.add_argument("--only", choices=["large", "small"], help="one table alone")
    parser.add_argument("--skip", nargs="*", choices=list(SIDES)[1:], default=[], help="sides to leave out")
    parser.add_argument("--quick", action="store_true", help="little data: to see that it works")
    options = parser.parse_args()
    repetitions = options.repetitions or (1 if options.quick else 3)
    large = {"rows": 50_000, "width": 1280, "classes": 100, "noise": 3.0}
    small = {"rows": 1968, "width": 1280, "classes": 2, "noise": 4.0}
    if options.quick:
        large, small = {**large, "rows": 2000, "width": 64, "classes": 10}, {**small, "rows": 300, "width": 32}
    if options.only != "small":
        title = "{rows:,} x {width:,} features, {classes} classes, a fifth held out".format(**large)
        compare(f"{title}: {len(SETTINGS)} settings and a refit", large, 0, repetitions, options.sample, options.skip)
    if options.only != "large":
        title = "{rows:,} x {width:,} features, {classes} classes, 5 folds".format(**small)
        compare(f"{title}: {len(SETTINGS)} settings and a refit", small, 5, repetitions, options.sample, options.skip)
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("", "; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


if __name__ == "__main__":
    main()

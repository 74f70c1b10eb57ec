"""What depths, heads and the ensemble are worth on several sets of images, and what the choice between them loses.

::

    python benchmarks/accuracy.py --data elpv flowers/ signs/      # the tables of docs/best.md
    python benchmarks/accuracy.py --data elpv flowers/ --depths last --heads logistic svm rbf mlp \
        --groups logistic+svm+rbf+mlp logistic+rbf                 # what the ensemble of some heads alone is worth
    python benchmarks/accuracy.py --quick                          # drawn images, to see that it works

Of each split of each set: features of all depths of the embedded network, from one pass; each head on each set of
depths, and the greedy ensemble of all these, trained, folded and chosen between as `best` does it. *cv* is the score
out of folds, by which everything is chosen; *test* is read once, here. The truly best method of a set is the one with
the highest mean test score over its splits, which nobody can know; what is lost in a split is its score there less that
of the method that was chosen. Intervals of differences over splits of the same images are widened as splits share
training images (Nadeau and Bengio 2003, "Inference for the generalization error", section 3).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
from scipy import stats

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.evaluation.comparison import choose_result
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import SearchSummary
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.ensemble_methods import run_ensemble
from pipeline.experiment.methods.head_methods import HeadProblems, run_head
from pipeline.experiment.setup.run_setup import extract_features, make_manifest
from pipeline.run_layout import RESULT
from pipeline.text import table
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import DepthSet, HeadConfig
from stages.extraction.extractor import build_extractor
from stages.tasks.base import find_metric

DEPTHS: tuple[DepthSet, ...] = ("last", "stages", "blocks", "all")
HEADS = ("logistic", "ridge", "rbf")
BASELINE = "logistic last"
TARGET = "not below -0.5, or the interval holds 0"


class Scored(NamedTuple):
    """A method in one split: scores in points, what it took beside the pass over images, its log loss out of folds."""

    cv: float
    test: float
    seconds: float
    log_loss: float


class Split(NamedTuple):
    """What one split gave: methods by their names, which of them was chosen, and how many samples were tested."""

    methods: dict[str, Scored]
    chosen: str
    test_share: float


class Compared(NamedTuple):
    """What is trained: each of the heads on each of the depths, and ensembles of all, and of some, of the heads."""

    heads: tuple[str, ...] = HEADS
    depths: tuple[DepthSet, ...] = DEPTHS
    groups: tuple[tuple[str, ...], ...] = ()


def split_of(data: str, seed: int, features: FeatureConfig, compared: Compared) -> Split:
    """Train, fold, test and choose between all methods in one split of a set."""
    source = DataConfig(data, seeds=(seed,))
    extractor = build_extractor(features)
    manifest = make_manifest(source, features, seed)
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        directory = Path(folder) / f"seed-{seed}"
        directory.mkdir()
        extract_features(extractor, manifest, directory)
        experiment = Experiment(extractor, manifest, seed, directory, data=source).readable()
        problems = HeadProblems(experiment, HeadConfig())
        results = [
            run_head(experiment, problems, head, HeadConfig(head=(head,), depths=(depths,)), f"{head}-{depths}")
            for head in compared.heads
            for depths in compared.depths
        ]
        if any(result.cv is None for result in results):
            raise SystemExit(f"{data}: so many images are not folded by default, and choices are by folds: take fewer")
        of_groups = {f"greedy of {'+'.join(group)}": _of_group(group, experiment, results) for group in compared.groups}
        ensemble = _mean_or_best(experiment, results)
        SearchSummary(None, len(results), 0.0, {}, (), ()).save(Path(folder))  # by its rule: training is paid for
        results = [Result.load(path.parent) for path in sorted(directory.glob(f"*/{RESULT}"))]
        chosen = choose_result(results).chosen.name
        methods = {result.name.replace("-", " "): _scored(result) for result in results} | of_groups
        methods.setdefault("greedy", _scored(ensemble))
    tested, trained = len(manifest.indices("test")), len(manifest) - len(manifest.indices("test"))
    return Split(methods, chosen.replace("-", " "), tested / trained)


def _scored(result: Result) -> Scored:
    loss = find_metric(result.task, "log_loss").score(result.out_of_fold.statistics)
    return Scored(
        100 * result.cv["mean"], 100 * result.test[result.metric.name], result.seconds_by_stage["train"], loss
    )


def _of_group(group: tuple[str, ...], experiment: Experiment, results: list[Result]) -> Scored:
    """Return what the ensemble of some heads alone is worth, made in a folder that holds no others."""
    members = [result for result in results if result.name.split("-")[0] in group]
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        directory = Path(folder) / experiment.directory.name
        names = [member.name for member in members]
        for path in experiment.directory.glob(f"*/{RESULT}"):
            if Result.load(path.parent).name in names:
                shutil.copytree(path.parent, directory / path.parent.name)
        return _scored(_mean_or_best(replace(experiment, directory=directory), members))


def _mean_or_best(experiment: Experiment, heads: list[Result]) -> Result:
    """Return the ensemble of some heads; where one alone is as good as any mean, that one."""
    made = run_ensemble(experiment, heads, HeadConfig(ensemble="greedy"))
    best = made[0] if made else max(heads, key=lambda head: head.cv["mean"])
    saved = (Result.load(path.parent) for path in experiment.directory.glob(f"*/{RESULT}"))
    return next(result for result in saved if (result.method, result.name) == (best.method, best.name))


def draw(folder: Path) -> Path:
    """Leave sixty small images of two classes, which differ in color and in noise, and return where they are."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name, color in (("leaf", (60, 130, 60)), ("stone", (110, 110, 110))):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            noisy = random.normal(color, 50, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{number}.png")
    return folder


def difference(splits: list[Split], method: str | None) -> tuple[float, float, float]:
    """Return the mean difference of a method, or of what was chosen, to the baseline, and its interval, in points."""
    points = np.array([split.methods[method or split.chosen].test - split.methods[BASELINE].test for split in splits])
    if len(points) < 2:
        return float(points.mean()), float("nan"), float("nan")
    variance = points.var(ddof=1) * (1 / len(points) + splits[0].test_share)
    half = stats.t.ppf(0.975, len(points) - 1) * np.sqrt(variance)
    return float(points.mean()), float(points.mean() - half), float(points.mean() + half)


def lost(splits: list[Split]) -> float:
    """Return the points that what was chosen loses against the method that tests best in the mean of the splits."""
    means = {name: np.mean([split.methods[name].test for split in splits]) for name in splits[0].methods}
    best = max(means, key=means.__getitem__)
    return float(np.mean([split.methods[best].test - split.methods[split.chosen].test for split in splits]))


def lines_of(name: str, splits: list[Split]) -> list[list[str]]:
    """Return the rows of a set: its methods in the order of their scores out of folds, and what was chosen."""
    means = {
        method: [np.mean([getattr(split.methods[method], field) for split in splits]) for field in Scored._fields]
        for method in splits[0].methods
    }
    counts = defaultdict(int)
    for split in splits:
        counts[split.chosen] += 1
    rows = []
    for method in sorted(means, key=lambda method: -means[method][0]):
        cv, test, seconds, loss = means[method]
        rows.append([name, method, f"{cv:.1f}", f"{loss:.3f}", f"{test:.1f}", _signed(difference(splits, method))])
        rows[-1] += [f"{seconds:.1f}", str(counts[method] or "")]
    cv, test = (np.mean([getattr(split.methods[split.chosen], field) for split in splits]) for field in ("cv", "test"))
    rows.append([name, "what is chosen", f"{cv:.1f}", "", f"{test:.1f}", _signed(difference(splits, None)), "", ""])
    return rows


def _signed(points: tuple[float, float, float]) -> str:
    mean, low, high = points
    return f"{mean:+.1f}" if np.isnan(low) else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="sets of images: what `--data` takes")
    parser.add_argument(
        "--cache", type=Path, default=Path("cutonce-cache"), help="of features (default: cutonce-cache)"
    )
    parser.add_argument("--splits", type=int, default=10, help="of each set (default: 10)")
    parser.add_argument("--first-split", type=int, default=100, help="its seed (default: 100)")
    parser.add_argument("--image-size", type=int, help="of all sets (default: the network's)")
    parser.add_argument("--heads", nargs="+", default=HEADS, help=f"(default: {' '.join(HEADS)})")
    parser.add_argument("--depths", nargs="+", default=DEPTHS, choices=DEPTHS, help="(default: all four)")
    parser.add_argument("--groups", nargs="*", default=[], help="heads, as in logistic+rbf, to make an ensemble of")
    parser.add_argument("--quick", action="store_true", help="drawn images, two heads, one split")
    options = parser.parse_args(arguments)
    if not options.data and not options.quick:
        parser.error("name data sets with --data, or say --quick")
    size = 32 if options.quick else options.image_size
    features = FeatureConfig(cache=options.cache, taps="all", pool="avg,max,std", image_size=size)
    count = 1 if options.quick else options.splits
    heads = ("logistic", "ridge") if options.quick else tuple(options.heads)
    groups = tuple(tuple(group.split("+")) for group in options.groups)
    compared = Compared(heads, tuple(options.depths), groups)
    rows, choices = [], []
    folder = tempfile.TemporaryDirectory(prefix="cutonce-benchmark-")
    for data in [str(draw(Path(folder.name) / "drawn"))] if options.quick else options.data:
        splits = []
        for seed in range(options.first_split, options.first_split + count):
            splits.append(split_of(data, seed, features, compared))
            print(Path(data).name, seed, splits[-1], file=sys.stderr, flush=True)
        name = Path(data).name
        rows += lines_of(name, splits)
        choices.append([name, _signed(difference(splits, None)), f"{lost(splits):.2f}"])
    header = ["set", "method", "cv", "log loss", "test", f"against {BASELINE}, points", "train, s", "chosen in splits"]
    echo("", table(header, rows))
    echo("", table(["set", f"what is chosen against {BASELINE} ({TARGET})", "lost against the truly best"], choices))
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


if __name__ == "__main__":
    main()

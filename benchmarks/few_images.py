"""What standardizing few images by their neighbors' variance, too, is worth: heads out of folds, with and without.

::

    python benchmarks/few_images.py --data elpv flowers/ signs/     # the table of docs/heads.md
    python benchmarks/few_images.py --data signs/ --taps all --pool avg,max,std --heads ridge
    python benchmarks/few_images.py --quick                         # drawn images, to see that it works

Of some images, drawn several times from those that are no test images, each head is trained and folded as `train` does
it; the draws are the same for all. 0 rows for the neighbors is the plain standard deviation, as in scikit-learn. The
number that is built in (16) was chosen by such tables. `apart` is how many orders of magnitude lie between the
quartiles of variances, each against its neighbors', at most of the draws: up to 3 features are taken for a layer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import draw
from pipeline.cli.output import echo
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import HeadProblems
from pipeline.experiment.setup.run_setup import extract_features, make_manifest
from pipeline.text import table
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.extraction.extractor import build_extractor
from stages.fitting import standardize
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_foldable_head
from stages.fitting.problem import FitProblem

SIZES = (40, 100, 300, 1000)
HEADS = ("logistic", "ridge", "rbf", "linear", "mlp")
PRIOR_ROWS = (0, 4, 16, 64)
_VALIDATION = 5
"""One in so many of the images is a validation image."""


def problem_of(data: str, features: FeatureConfig, folder: Path) -> FitProblem:
    """Return the images of a set that are no test images, with their features."""
    source = DataConfig(data, seeds=(0,))
    extractor, manifest = build_extractor(features), make_manifest(source, features, 0)
    directory = Path(tempfile.mkdtemp(dir=folder), "seed-0")
    directory.mkdir()
    extract_features(extractor, manifest, directory)
    experiment = Experiment(extractor, manifest, 0, directory, data=source).readable()
    return HeadProblems(experiment, HeadConfig()).of("ridge").problem


def drawn(problem: FitProblem, size: int, number: int) -> FitProblem:
    """Return so many of the images of a problem."""
    rows = problem.train + problem.val
    assert isinstance(rows, FeatureRows)
    picked = np.random.default_rng(number).permutation(len(rows))[:size]
    some = rows.at(picked)
    places = np.arange(size)
    split = (places % _VALIDATION != 0, places % _VALIDATION == 0)
    return replace(problem, train=some.at(places[split[0]]), val=some.at(places[split[1]]), shared={})


def scored(head: Any, problem: FitProblem) -> tuple[float, float]:
    """Return the accuracy of a head out of folds, in percent, and its log loss."""
    _, fold = train_foldable_head(head, problem)
    outside = fold()
    assert outside is not None
    probabilities = outside.activated(problem.task).mean(axis=0)
    accuracy = (probabilities.argmax(axis=1) == problem.labels).mean()
    likely = np.take_along_axis(probabilities, problem.labels[:, None], axis=1)
    return 100 * float(accuracy), float(-np.log(np.maximum(likely, 1e-12)).mean())


def cell(values: NDArray[np.float64], plain: NDArray[np.float64]) -> str:
    """Return accuracy and log loss in words, and beside plain ones the difference of accuracies with its error."""
    accuracy, loss = values.mean(axis=0)
    difference = values[:, 0] - plain[:, 0]
    if not difference.any():
        return f"{accuracy:.1f} / {loss:.2f}"
    error = f" ± {difference.std(ddof=1) / len(difference) ** 0.5:.1f}" if len(difference) > 1 else ""
    return f"{accuracy:.1f} / {loss:.2f} ({difference.mean():+.1f}{error})"


def orders_apart(problem: FitProblem) -> float:
    """Return how far the variances of features lie from those of their neighbors, as `standardize` looks at it."""
    rows = problem.train + problem.val
    assert isinstance(rows, FeatureRows)
    features = rows.features.astype(np.float64)
    return standardize.orders_apart(features.var(axis=0), features.mean(axis=0))


def rows_of(problem: FitProblem, options: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the table of a set."""
    built_in, rows = standardize.PRIOR_ROWS, []
    for size in (size for size in options.images if size <= len(problem.labels)):
        some = [drawn(problem, size, number) for number in range(options.draws)]
        apart = max(orders_apart(part) for part in some)
        for head in options.heads:
            values = []
            try:
                for standardize.PRIOR_ROWS in options.prior_rows:
                    values.append(np.array([scored(head, replace(part, shared={})) for part in some]))
            finally:
                standardize.PRIOR_ROWS = built_in
            rows.append([f"{size}", head, *(cell(value, values[0]) for value in values), f"{apart:.1f}"])
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Train, and print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="one class an image: elpv, a folder, a CSV file")
    parser.add_argument("--images", type=int, nargs="+", default=SIZES, help="how many are drawn")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--prior-rows", type=float, nargs="+", default=PRIOR_ROWS, help="what neighbors count for")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--taps", default="")
    parser.add_argument("--pool", default="avg")
    parser.add_argument("--quick", action="store_true", help="few images, heads and draws")
    options = parser.parse_args(arguments)
    if options.quick:
        options.images, options.draws, options.heads = (30,), 2, ("ridge",)
    elif not options.data:
        parser.error("--data names what is measured; --quick draws images")
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        common = {"image_size": options.image_size, "taps": options.taps, "pool": options.pool}
        features = FeatureConfig(backbone=options.backbone, cache=Path(folder, "cache"), **common)
        for data in options.data or [str(draw(Path(folder, "drawn")))]:
            rows = rows_of(problem_of(data, features, Path(folder)), options)
            echo("", f"{data}: accuracy out of folds, % / log loss, by the rows that neighbors count for", "")
            echo(table(["images", "head", *(f"{number:g}" for number in options.prior_rows), "apart"], rows, 2))


if __name__ == "__main__":
    main()

"""Every head on cached features of one network, for any data: accuracy over several splits, and seconds.

::

    python benchmarks/heads.py elpv --image-size 224 --out runs/heads                # the tables of docs/heads.md
    python benchmarks/heads.py photos/ --image-size 128 --out runs/heads             # any data that --data takes
    python benchmarks/heads.py digits --image-size 32 --seeds 0 --quick              # seconds, to see that it works

Heads on vectors are trained on the classifier's input and on several cuts joined; heads on maps on the map of one cut.
Each has the options that it has by default. Accuracy is that on the test split, mean and range over the seeds, each of
which draws other splits; what settings and epochs were chosen by is validation, and never the test split. Seconds are
for choosing the settings and fitting, features being in the cache, mean over the seeds. What is in `--out` already is
not trained again, so a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

VECTORS = ("logistic", "svm", "ridge", "rbf", "ncm", "knn", "sgd", "linear", "mlp", "concat", "cosine")
MAPS = ("concat", "attention", "top")
QUICK = ("logistic", "ncm"), ("concat",)
LITTLE = {"c_values": (0.01, 0.1), "scalers": ("standard",), "cv": 2, "fit_epochs": 15}
"""What --quick tries and trains."""
JOINED, MAP = "blocks.3,blocks.4,conv_head", "blocks.6"


def measure(data, image_size, seeds, options, heads_of_vectors, heads_of_maps):
    """Extract what is missing, train the heads, and return the rows of the table."""
    from pipeline.cli.extract import extract
    from pipeline.cli.output import messages_printed
    from pipeline.cli.train import train
    from stages.config.data import DataConfig
    from stages.config.features import FeatureConfig
    from stages.config.heads import HeadConfig

    source = DataConfig(data, seeds=tuple(seeds))
    common = {"backbone": options.backbone, "image_size": image_size, "cache": options.cache}
    kinds = {
        "classifier's input": (FeatureConfig(**common), heads_of_vectors),
        f"{options.joined}, joined": (FeatureConfig(**common, cut=options.joined), heads_of_vectors),
        f"map of {options.map}": (FeatureConfig(**common, cut=options.map, pool="none"), heads_of_maps),
    }
    rows = []
    for number, (kind, (features, heads)) in enumerate(kinds.items()):
        run = options.out / Path(data).stem / f"{number}"
        with messages_printed():
            extract(data=source, features=features)
            head = HeadConfig(heads, **LITTLE if options.quick else {})
            results = train(data=source, features=features, head=head, out=run)
        rows += [_row(kind, name, [result for result in results if result.name == name]) for name in heads]
    return rows


def _row(kind, name, results):
    tested = [result.test["accuracy"] for result in results]
    validated = statistics.mean(result.val["accuracy"] for result in results)
    seconds = statistics.mean(result.seconds_by_stage["train"] for result in results)
    range_of = f"{100 * min(tested):.1f} to {100 * max(tested):.1f}"
    return [name, kind, f"{statistics.mean(tested):.1%}", range_of, f"{validated:.1%}", f"{seconds:.1f}"]


def main(arguments: list[str] | None = None) -> None:
    """Train, and print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="as `--data` takes it: elpv, digits, a folder, a CSV file")
    parser.add_argument("--image-size", type=int, nargs="+", help="side of the images, for all data or for each")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--joined", default=JOINED, help="cuts whose pooled outputs are joined")
    parser.add_argument("--map", default=MAP, help="cut whose map the heads on maps take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("cutonce-cache"))
    parser.add_argument("--out", type=Path, help="folder of the runs (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="few heads, few settings and epochs: to see that it works")
    options = parser.parse_args(arguments)
    sizes = options.image_size or [None]
    sizes = sizes * len(options.data) if len(sizes) == 1 else sizes
    if len(sizes) != len(options.data):
        parser.error(f"--image-size names {len(sizes)} sizes for {len(options.data)} data sets")
    from pipeline.cli.output import echo
    from pipeline.text import table

    with tempfile.TemporaryDirectory(prefix="cutonce-heads-") as folder:
        options.out = options.out or Path(folder)
        heads = QUICK if options.quick else (VECTORS, MAPS)
        tables = [
            measure(data, size, options.seeds, options, *heads) for data, size in zip(options.data, sizes, strict=True)
        ]
    header = ["head", "features", "test accuracy", "over seeds", "validation", "seconds"]
    for data, size, rows in zip(options.data, sizes, tables, strict=True):
        pixels = f" at {size} pixels" if size else ""
        echo("", f"{data}{pixels}, {options.backbone}, seeds {' '.join(map(str, options.seeds))}", "")
        echo(table(header, rows, 2))


if __name__ == "__main__":
    main()

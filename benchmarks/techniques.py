"""What each technique of stage 3 brings: one training for each, on the same images, in one table.

::

    python benchmarks/techniques.py --data elpv                      # hours on two cores; goes on where it was stopped
    python benchmarks/techniques.py --data photos/ --image-size 128
    python benchmarks/techniques.py --data elpv --only views         # how many cached views it takes
    python benchmarks/techniques.py --data elpv --only baselines     # what the pretrained weights are worth, by epoch
    python benchmarks/techniques.py --quick                          # minutes, on scikit-learn's digits

Everything is compared with the same fine-tuning without that technique, from the same head, on the same test images.
Where a technique does not concern images it trains from cached views, since that takes a fraction of the time; its
comparison does too. Given are means over the seeds, and the range where there are several. The last column is the
paired difference to its comparison with the 95 % interval (bootstrap over the images).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from pipeline.cli.output import echo, messages_printed
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.method_summary import MethodSummary, paired_test
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.setup.run_setup import extract_features, init_run, init_seed
from pipeline.report.figures import save_png, validation_curves
from pipeline.text import duration, percent, points, table
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.extraction.extractor import build_extractor
from stages.finetuning.baselines import baseline

BASE = FinetuneConfig(unfreeze="3", epochs=6)
"""What every technique is added to."""

FROM_IMAGES = {
    "fine-tuning": {},
    "mixup": {"mixup": 0.2},
    "gradual unfreezing": {"unfreeze_every": 1},
    "head and all blocks": {"unfreeze": "all", "layer_decay": 0.7},
    "only one block in the middle": {"unfreeze": "blocks.5,"},
    "cutmix": {"cutmix": 1.0},
    "BatchNorm in training mode": {"batchnorm": "train"},
    "test-time flip": {"tta": "flip"},
    "new head": {"init_head": "new", "head_lr": 1e-3},
}
FROM_CACHE = {
    "from cached views": {},
    "discriminative rates": {"layer_decay": 0.3},
    "rate from a range test": {"lr_find": "start"},
    "SGD": {"opt": "sgd", "lr": 3e-3, "head_lr": 3e-3},
    "Adam": {"opt": "adam"},
    "one-cycle": {"schedule": "onecycle"},
    "constant rate": {"schedule": "constant"},
    "steps": {"schedule": "step"},
    "plateau": {"schedule": "plateau", "plateau_patience": 1},
    "triangular2": {"schedule": "triangular2"},
    "warm restarts": {"schedule": "restarts", "cycle_epochs": 2, "cycle_mul": 2},
    "label smoothing": {"label_smoothing": 0.1},
    "dropout": {"finetune_dropout": 0.5},
    "stochastic depth": {"drop_path": 0.2},
    "weight decay 0.1": {"weight_decay": 0.1},
    "L1": {"l1": 1e-5},
    "average of the weights": {"model_ema_decay": 0.99},
    "clipped gradients": {"clip_grad": 1.0},
    "two batches a step": {"grad_accum_steps": 2},
    "last blocks drawn anew": {"reinit": "2", "lr": 1e-3},
}
BASELINES: tuple[Literal["scratch", "uncached"], ...] = ("scratch", "uncached")
CURVES = {"fine-tuning": "fine-tuned top", "scratch": "from scratch", "uncached": "head on frozen network"}
"""What is drawn by epoch, and how it is named."""

VIEWS = (1, 2, 3, 5, 8)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as the commands take it (default: elpv; digits with --quick)")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--augment", default="light")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=BASE.epochs)
    parser.add_argument("--views", type=int, default=4, help="cached views of each training image")
    parser.add_argument("--precision", default="fp32", help="of all that is computed: fp32, bf16, or auto")
    parser.add_argument("--only", nargs="+", choices=["images", "cache", "baselines", "views"])
    parser.add_argument("--cache", type=Path, default=FeatureConfig.cache)
    parser.add_argument(
        "--out", type=Path, help="run directory, which keeps what is trained (default: runs/techniques)"
    )
    parser.add_argument("--quick", action="store_true", help="one epoch of some of them: to see that it works")
    options = parser.parse_args(arguments)
    data = DataConfig(options.data or ("digits" if options.quick else "elpv"), seeds=tuple(options.seeds))
    features = FeatureConfig(
        backbone=options.backbone,
        image_size=options.image_size or (64 if options.quick else None),
        augment=options.augment,
        cache=options.cache,
        precision=options.precision,
    )
    out = options.out or Path("runs") / f"techniques-{Path(data.data).name}"
    autocast = "none" if options.precision == "fp32" else options.precision
    base = replace(BASE, epochs=1 if options.quick else options.epochs, amp_dtype=autocast)
    trainings = _asked(base, options.only or ["images", "cache", "baselines"], options.views, quick=options.quick)
    head = HeadConfig(c_values=(0.01,), scalers=("standard",), cv=2) if options.quick else HeadConfig()
    init_run(out, data, features, head, base)
    for views in sorted({count for _, count, _ in trainings.values()}):
        extractor = build_extractor(replace(features, views=views))
        for seed in data.seeds:
            manifest, directory = init_seed(out, data, features, seed)
            extract_features(build_extractor(features), manifest, directory)
            for label, (config, count, _) in trainings.items():
                if count == views:
                    experiment = Experiment(extractor, manifest, seed, directory)
                    run_finetune(experiment, replace(config, name=label), head)
    rows = {row.name: row for row in compare_runs([out]).rows}
    echo("", _table(rows, trainings))
    if options.only == ["views"]:
        _draw_views(rows, trainings, out / "views.png")
        echo(f"plot: {out / 'views.png'}")
    if {*BASELINES} <= {*trainings}:
        curves = [replace(rows[label], label=description) for label, description in CURVES.items()]
        save_png(validation_curves(dict(enumerate(curves)), None, "epoch"), out / "curves.png")
        echo(f"plot: {out / 'curves.png'}")


def _asked(
    base: FinetuneConfig, only: list[str], views: int, *, quick: bool
) -> dict[str, tuple[FinetuneConfig, int, str | None]]:
    """Return the trainings by their labels: options, cached views, and the label of what each is compared with."""
    trainings: dict[str, tuple[FinetuneConfig, int, str | None]] = {}
    limit = 2 if quick else None
    if "images" in only:
        for name, changed in list(FROM_IMAGES.items())[:limit]:
            reference = None if name == "fine-tuning" else "fine-tuning"
            trainings[_label(name)] = replace(base, **changed), 1, reference
    if "cache" in only:
        for name, changed in list(FROM_CACHE.items())[:limit]:
            reference = "fine-tuning" if name == "from cached views" else _label("from cached views")
            trainings[_label(name)] = replace(base, from_cache=True, **changed), views, reference
    if "baselines" in only:
        trainings.setdefault("fine-tuning", (base, 1, None))
        for baseline_name in BASELINES:
            trainings[baseline_name] = baseline(base, baseline_name), 1, "fine-tuning"
    if "views" in only:
        trainings.setdefault("fine-tuning", (base, 1, None))
        for count in VIEWS[:limit]:
            augmented = replace(base, from_cache=True)
            trainings[f"views-{count}"] = augmented, count, "fine-tuning"
    return trainings


def _label(name: str) -> str:
    return name.replace(" ", "-")


def _table(rows: dict[str, MethodSummary], trainings: dict[str, tuple[FinetuneConfig, int, str | None]]) -> str:
    lines = []
    for label, (_, _views, reference) in trainings.items():
        row = rows[label]
        seed_range = (
            "" if len(row.seeds) == 1 else " ({:.1f}-{:.1f})".format(*(100 * bound for bound in row.score_range))
        )
        difference = ""
        if reference in rows:
            effect = paired_test(row, rows[reference])
            low, high = effect.difference_ci95
            difference = f"{points(effect.difference)} ({points(low)} to {points(high)})"
        epochs = np.mean([result.settings["best epoch"] for result in row.results])
        line = [label, percent(row.val_score), percent(row.score) + seed_range, f"{epochs:.0f}"]
        stages = row.seconds_by_stage
        lines.append([*line, duration(stages["extract"]), duration(stages["train"]), reference or "", difference])
    header = ["technique", "validation", "test", "best epoch", "features", "training", "against", "points"]
    return table(header, lines, 1)


def _draw_views(
    rows: dict[str, MethodSummary], trainings: dict[str, tuple[FinetuneConfig, int, str | None]], path: Path
) -> None:
    """Draw accuracy and time over the number of cached views, beside training from images."""
    from matplotlib.figure import Figure

    counts = [views for label, (_, views, _) in trainings.items() if label != "fine-tuning"]
    cached, images = [rows[f"views-{views}"] for views in counts], rows["fine-tuning"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    bounds = np.array([row.ci95 for row in cached]).T * 100
    accuracy = np.array([row.score for row in cached]) * 100
    left.errorbar(counts, accuracy, np.abs(bounds - accuracy), fmt="o-", capsize=3, label="cached views")
    low, high = images.ci95
    left.axhspan(100 * low, 100 * high, color="0.9")
    left.axhline(100 * images.score, color="0.4", label="images, new renderings in each epoch")
    left.set(xlabel="cached views", ylabel="test accuracy, %")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    for stage, name in (("train", "training"), ("extract", "filling the cache")):
        right.plot(counts, [row.seconds_by_stage[stage] for row in cached], "o-", label=name)
    right.axhline(images.seconds_by_stage["train"], color="0.4", label="training from images")
    right.set(xlabel="cached views", ylabel="seconds", ylim=(0, None))
    right.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    with messages_printed():
        main()

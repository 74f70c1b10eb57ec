"""How long an epoch of stage 3 takes: from images and from the cache, against freezing by ``requires_grad`` alone.

::

    python benchmarks/finetune.py                 # an hour on two cores
    python benchmarks/finetune.py --quick         # minutes, to see that it works

All sides train the same top blocks and a new head for the same epochs, on the same images in the same order, with the
same augmentation, optimiser and rates, BatchNorm in evaluation mode. The baseline is what people write: the whole
network in NCHW and float32, ``requires_grad`` off below, a DataLoader with 2 workers. Each side runs in a fresh
process, in turn; the time of an epoch is the mean of all but the first, in which libraries get ready. Filling the
cache of views is told by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table

TOPS = {"resnet18": "layer4", "efficientnet_lite0": "blocks.5"}
"""Networks, and the lowest layer that trains: the last stage, and the last two."""

SIDES = {
    "requires_grad alone": {"baseline": True},
    "from images": {},
    "from images, bf16": {"precision": "bf16", "amp_dtype": "auto"},
    "from the cache": {"from_cache": True},
    "from the cache, bf16": {"precision": "bf16", "amp_dtype": "auto", "from_cache": True},
}


def side(
    images: str,
    backbone: str,
    weights: str,
    unfreeze: str,
    epochs: int,
    views: int,
    baseline: bool = False,
    precision: str = "fp32",
    image_size: int | None = None,
    device: str = "auto",
    **options,
) -> dict:
    """Train as one side does; called in a process of its own."""
    from stages.runtime.openmp import configure_openmp

    if not baseline:
        configure_openmp()  # before torch is imported
    import torch

    from stages.config.data import DataConfig
    from stages.config.features import FeatureConfig
    from stages.config.finetune import FinetuneConfig
    from stages.data.manifest import load_manifest
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.baselines import random_head
    from stages.finetuning.finetune import finetune
    from stages.finetuning.problem import FinetuneProblem

    torch.manual_seed(0)
    features = FeatureConfig(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        views=views,
        augment="light",
        precision=precision,
        device=device,
    )
    extractor = build_extractor(features)
    manifest = load_manifest(DataConfig(images))
    config = FinetuneConfig(unfreeze=unfreeze, init_head="new", epochs=epochs, lr=1e-4, head_lr=1e-3, **options)
    head = random_head(extractor, manifest.task.out_features, 0)
    if baseline:
        return _by_flag(extractor, head, config, manifest)
    result = finetune(FinetuneProblem(extractor, manifest, head, config, 0))
    rows = result.fit.history[1:]
    return {
        "seconds": statistics.mean(epoch.seconds for epoch in rows[1:]),
        "images": len(manifest.indices("train")) + len(manifest.indices("val")),
        "losses": [epoch.train_loss for epoch in rows],
        "accuracy": result.fit.best.val_score,
        "views": result.view_seconds,
        "autocast": result.autocast,
    }


def _by_flag(extractor, head, options, manifest) -> dict:
    """Train the whole network with ``requires_grad`` off below, as it is commonly written."""
    import torch
    from torch.utils.data import DataLoader

    from stages.data.sources.open_image import read_image
    from stages.finetuning.batch_sampler import EpochBatchSampler
    from stages.finetuning.image_batches import AugmentedImages
    from stages.network.backbones.registry import load_backbone
    from stages.network.classifier import output_layers

    loaded = load_backbone(extractor.options.backbone, extractor.options.weights, extractor.options.image_size)
    network = loaded.module
    network.set_submodule(output_layers(network)[0], head.output)
    trained = extractor.graph.boundary(options.unfreeze).trainable
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(
            any(name == prefix or name.startswith(f"{prefix}.") for prefix in (*trained, *output_layers(network)))
        )
    body = [
        value
        for name, value in network.named_parameters()
        if value.requires_grad and value is not head.output.weight and value is not head.output.bias
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": body, "lr": options.lr},
            {"params": list(head.output.parameters()), "lr": options.head_lr},
        ],
        weight_decay=options.weight_decay,
    )
    train, val = (manifest.select(manifest.indices(split)) for split in ("train", "val"))
    images = AugmentedImages(train, extractor.augmentation, 0)
    order = EpochBatchSampler(len(train), options.finetune_batch_size, 0)
    steps = len(order) * options.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine_after_warmup(steps))
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (loaded.preprocessing.mean, loaded.preprocessing.std)
    )
    network.eval()
    seconds, losses = [], []
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        sampler = [[(epoch, index) for index in batch] for batch in order.batches(epoch)]
        total = count = 0
        for pixels, labels in DataLoader(images, batch_sampler=sampler, num_workers=2):
            inputs = (pixels.contiguous() / 255 - mean) / std
            loss = torch.nn.functional.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, count = total + loss.item() * len(labels), count + len(labels)
        right = 0
        with torch.no_grad():
            for start in range(0, len(val), 32):
                views = [
                    loaded.preprocessing.render(read_image(location)) for location in val.locations[start : start + 32]
                ]
                inputs = (torch.stack(views).contiguous() / 255 - mean) / std
                right += int((network(inputs).argmax(1) == torch.from_numpy(val.targets[start : start + 32])).sum())
        losses.append(total / count)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": statistics.mean(seconds[1:]),
        "losses": losses,
        "accuracy": right / len(val),
        "views": 0.0,
        "autocast": "none",
    }


def _cosine_after_warmup(steps: int):
    """Return the schedule of stage 3 by default, as a factor of the highest rate."""
    from stages.training.lr_schedules import LRScheduleConfig, lr_trace

    factors = lr_trace(LRScheduleConfig("cosine"), [1.0], steps, 1)[:, 0]
    return lambda step: float(factors[min(step, len(factors) - 1)])  # torch asks once more after the last step


def main() -> None:
    """Measure, and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--backbone", nargs="+", choices=TOPS, default=list(TOPS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--quick", action="store_true", help="few images: to see that it works")
    options = parser.parse_args()
    counts = {"train": 24, "val": 16, "test": 4} if options.quick else {"train": 768, "val": 192, "test": 32}
    repetitions, epochs = (1, 2) if options.quick else (options.repetitions, options.epochs)
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as name:
        folder = Path(name)
        in_fresh_process("photographs.make_elpv", folder, counts=counts, folder=str(folder / "elpv"))
        for backbone in options.backbone:
            weights = str(folder / f"{backbone}.safetensors")
            images = str(folder / "elpv" / "train")
            in_fresh_process("weights.make", folder, backbone=backbone, images=images, path=weights, download=False)
            runs_by_side: dict[str, list[dict]] = {side_name: [] for side_name in options.sides}
            for repetition in range(repetitions):
                for side_name in options.sides[:: -1 if repetition % 2 else 1]:
                    arguments = {"images": str(folder / "elpv"), "backbone": backbone, "weights": weights}
                    arguments |= {
                        "unfreeze": TOPS[backbone],
                        "epochs": epochs,
                        "views": options.views,
                        **SIDES[side_name],
                    }
                    run_dir = Path(tempfile.mkdtemp(dir=folder))
                    runs_by_side[side_name].append(in_fresh_process("finetune.side", run_dir, **arguments))
                    print(f"  {backbone} {side_name}: {runs_by_side[side_name][-1]}", file=sys.stderr, flush=True)
            echo("", _title(backbone, counts, epochs), "", _table(runs_by_side, counts["train"]))
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("", "; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


def _title(backbone: str, counts: dict[str, int], epochs: int) -> str:
    return f"{backbone} from {TOPS[backbone]} up, {counts['train']} training images of ELPV at 224 px, {epochs} epochs"


def _table(runs_by_side: dict[str, list[dict]], images: int) -> str:
    baseline_runs = next(iter(runs_by_side.values()))
    rows = []
    for name, runs in runs_by_side.items():
        ratios = [base["seconds"] / run["seconds"] for base, run in zip(baseline_runs, runs, strict=True)]
        seconds = statistics.median(run["seconds"] for run in runs)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        losses = ", ".join(f"{loss:.3f}" for loss in runs[-1]["losses"])
        views = f"{statistics.median(run['views'] for run in runs):.0f}" if runs[0]["views"] else ""
        row = [name, f"{seconds:.1f}", f"{1000 * seconds / images:.1f}", spread, losses]
        rows.append([*row, f"{runs[-1]['accuracy']:.1%}", views, runs[-1]["autocast"]])
    header = [
        "side",
        "s an epoch",
        "ms an image",
        "ratio",
        "training loss",
        "validation",
        "views cached in, s",
        "top in",
    ]
    return table(header, rows, 1)


if __name__ == "__main__":
    main()

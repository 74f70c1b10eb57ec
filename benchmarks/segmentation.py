"""What a linear head for segmentation takes in twenty epochs: from images in every epoch, and from cached maps.

::

    python benchmarks/segmentation.py --data CamVid --ignore-label 11   # half an hour on two cores
    python benchmarks/segmentation.py --quick      # a minute, on drawn images, to see that it works

The same frozen network and the same head, a 1 x 1 convolution behind a BatchNorm on the maps of three depths, in three
ways. *plain loop*: a loader of torch reads and normalizes the images, the network and the head run on them in every
epoch. *our own way uncached*: cutonce's decoding and its folded network in every epoch, and the head. *from the cache*:
all images of all splits once, and then the head alone. Each way runs in a process of its own, in turn; an epoch of the
first two is measured and multiplied, since all their epochs are alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table

WAYS = {
    "plain_loop": "plain loop over images",
    "uncached": "our own way, uncached",
    "from_cache": "from the cache, its extraction included",
}
BATCH_SIZE = 8


@dataclass(frozen=True)
class _Images:
    """Images with thinned masks, as a data set of torch is written."""

    files: list[tuple[str, str]]
    classes: Any
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        import torch
        from PIL import Image
        from torchvision.transforms import functional as pixels

        from stages.data.masks.mask_classes import read_mask

        location, mask_location = self.files[index]
        with Image.open(location) as file:
            image = pixels.to_tensor(file.convert("RGB").resize(self.size[::-1]))
        mask = torch.from_numpy(read_mask(mask_location, self.classes))
        thinned = pixels.resize(mask[None], [side // 8 for side in self.size], pixels.InterpolationMode.NEAREST)
        return pixels.normalize(image, self.mean, self.std), thinned[0].long()


def plain_loop(data: str, ignore_label: str, epochs: int) -> dict:
    """Return what epochs from images take, as people write them: loader, frozen network, head, loss."""
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.utils.data import DataLoader

    manifest, features = _load(data, ignore_label)
    from stages.config.image_size import shape_of_size
    from stages.network.backbones.registry import load_backbone
    from stages.network.graph.cuts import CutGraph
    from stages.network.graph.map_cuts import default_map_cuts

    size = shape_of_size(features.image_size)
    loaded = load_backbone(features.backbone)
    names = [cut.alias for cut in default_map_cuts(CutGraph(loaded.module, features.image_size))]
    train = [place for place, split in enumerate(manifest.splits) if split == "train"]
    network, kept = loaded.module.eval().requires_grad_(False), {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: kept.__setitem__(name, output)
        )
    with torch.no_grad():
        network(torch.zeros(1, 3, *size))
    widths = [kept[name].shape[1] for name in names]
    classes = len(manifest.task.class_names)
    head = nn.ModuleList([nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)) for width in widths])
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    files = [(manifest.locations[place], manifest.target_texts[place]) for place in train]
    images = _Images(files, manifest.mask_classes, size, loaded.preprocessing.mean, loaded.preprocessing.std)
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
    started = time.perf_counter()
    for images, masks in loader:
        with torch.no_grad():
            network(images)
        parts = [part(kept[name]) for part, name in zip(head, names, strict=True)]
        logits = sum(
            functional.interpolate(part, masks.shape[-2:], mode="bilinear", align_corners=False) for part in parts
        )
        loss = functional.cross_entropy(logits, masks, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    epoch = time.perf_counter() - started
    return {"seconds": epochs * epoch, "epoch": epoch, "images": len(train)}


def uncached(data: str, ignore_label: str, epochs: int) -> dict:
    """Return what epochs take in which our own decoding and folded network run, and then the head."""
    _wait_as_the_command_does()
    manifest, features = _load(data, ignore_label)
    from stages.extraction.extractor import build_extractor

    extractor = build_extractor(features)
    train = manifest.select(manifest.indices("train"))
    started = time.perf_counter()
    for _ in extractor.run_batches(extractor.evaluation_requests(train.locations), extractor.forward_rows, 1):
        pass
    one_pass = time.perf_counter() - started
    cached = from_cache(data, ignore_label, epochs)
    epoch = one_pass + cached["epoch"]
    return {"seconds": epochs * epoch, "epoch": epoch, "images": len(train)}


def from_cache(data: str, ignore_label: str, epochs: int) -> dict:
    """Return what all images once and epochs of the head alone take."""
    _wait_as_the_command_does()
    import torch

    manifest, features = _load(data, ignore_label)
    from stages.config.heads import HeadConfig
    from stages.data.masks.mask_targets import MaskTargets
    from stages.extraction.extract import extract
    from stages.extraction.extractor import build_extractor
    from stages.extraction.read_features import read_features
    from stages.fitting.feature_rows import FeatureRows
    from stages.fitting.fit_head import FitProblem, get_fit, train_head

    get_fit("linear")  # imports are not what is measured
    extractor = build_extractor(features)
    started = time.perf_counter()
    extract(extractor, manifest)
    extracted = time.perf_counter() - started
    rows = []
    for split in ("train", "val"):
        places = np.array(manifest.indices(split))
        rows.append(FeatureRows(read_features(extractor, manifest.select(places)), places))
    masks = MaskTargets(manifest.target_texts, manifest.mask_classes, 1 << 30)
    options = HeadConfig(fit_epochs=epochs)
    problem = FitProblem(
        *rows, manifest.task, options, 0, torch.device("cpu"), maps=extractor.map_layout, targets=masks
    )
    result = train_head("linear", problem)
    epoch = statistics.median(row.seconds for row in result.history)
    return {
        "seconds": extracted + sum(row.seconds for row in result.history),
        "epoch": epoch,
        "images": len(manifest),
        "extraction": extracted,
        "bytes": sum(cache.size_on_disk for cache in extractor.caches) / len(manifest),
    }


def _wait_as_the_command_does() -> None:
    """Set how OpenMP's threads wait, before torch is imported; the plain loop waits as any program with torch."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()


def _load(data: str, ignore_label: str):
    from pipeline.experiment.setup.dense_defaults import dense_features
    from stages.config.data import DataConfig
    from stages.config.features import FeatureConfig
    from stages.data.manifest import load_manifest

    ignored = {"ignore_label": (ignore_label,)} if ignore_label else {}
    manifest = load_manifest(DataConfig(data, task="dense", **ignored))
    return manifest, dense_features(FeatureConfig(cache=Path(tempfile.mkdtemp(dir="."))), manifest)


def draw(folder: Path) -> None:
    """Leave a few images of colored rectangles, with masks of them."""
    from PIL import Image

    random = np.random.default_rng(0)
    colors = np.array([[60, 90, 150], [120, 120, 60], [200, 60, 60]])
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(random.integers(0, 3, (4, 5)), np.ones((24, 24), int)).astype(np.uint8)
            noisy = colors[mask] + random.normal(0, 20, (*mask.shape, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="images with masks: what `--data` takes")
    parser.add_argument("--ignore-label", default="", help="the value of masks for no known class")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each way (default: 3)")
    parser.add_argument("--quick", action="store_true", help="drawn images, once")
    options = parser.parse_args(arguments)
    if options.data is None and not options.quick:
        parser.error("name a data set with --data, or say --quick")
    repetitions = 1 if options.quick else options.repetitions
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as name:
        folder = Path(name)
        if options.quick:
            draw(folder / "drawn")
        data = str(folder / "drawn" if options.quick else Path(options.data).resolve())
        of_all = {"data": data, "ignore_label": options.ignore_label, "epochs": options.epochs}
        for repetition in range(repetitions):
            for way in list(WAYS)[:: -1 if repetition % 2 else 1]:
                runs[way].append(in_fresh_process(f"segmentation.{way}", folder, **of_all))
                print(f"  {way}: {runs[way][-1]}", file=sys.stderr, flush=True)
    lines = []
    for way, words in WAYS.items():
        ratios = [run["seconds"] / cached["seconds"] for run, cached in zip(runs[way], runs["from_cache"], strict=True)]
        seconds, epoch = (statistics.median(run[quantity] for run in runs[way]) for quantity in ("seconds", "epoch"))
        times = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        lines.append([words, f"{epoch:.2f}", f"{seconds:,.1f}", times])
    cached = runs["from_cache"][-1]
    echo("", table(["way", "s an epoch", f"s, {options.epochs} epochs", "times the cache's"], lines))
    echo(
        "",
        f"{cached['images']:,} images extracted once in {cached['extraction']:.1f} s, {cached['bytes'] / 1000:,.0f} kB "
        "each on disk; an epoch goes over the training images.",
    )
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


if __name__ == "__main__":
    main()

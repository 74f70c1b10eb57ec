"""Does the memory of training a head on maps grow with the number of images? Peak resident memory at several sizes.

::

    python benchmarks/segmentation_memory.py            # 1,500 and 6,000 images: some minutes on two cores
    python benchmarks/segmentation_memory.py --images 50 200

Each size runs in a process of its own: maps of three depths, random ones, are written into caches; a linear head is
trained on them, as they are streamed with a bounded buffer, refitted on all rows and scored on every pixel of the
masks. Caches, files of masks, training and scoring are those of the commands. What is read in order comes in blocks of
some megabytes, so few images take less.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import in_fresh_process
from pipeline.cli.output import echo
from pipeline.text import table

SHAPES = ((40, 24, 32), (112, 12, 16), (320, 6, 8))
"""Of the maps of an image of 192 x 256."""

CLASSES, MASK_FILES = 5, 40
BUFFER = 24 << 20
"""Bytes of maps that may be in memory while they are shuffled."""


def train(images: int) -> dict[str, Any]:
    """Return the peak of resident memory, in bytes, of training and scoring on so many images, and their bytes."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()  # before torch is imported
    import numpy as np
    import torch
    from PIL import Image

    from cache import FeatureCache, Spec, key_of_bytes
    from stages.config.heads import HeadConfig
    from stages.data.masks.mask_classes import MaskClasses
    from stages.data.masks.mask_targets import MaskTargets
    from stages.fitting.feature_rows import StreamedFeatureRows
    from stages.fitting.fit_head import FitProblem, train_head
    from stages.network.map_layout import MapLayout
    from stages.runtime.allocator import tune_malloc
    from stages.tasks.dense import Dense

    tune_malloc()
    folder = Path(tempfile.mkdtemp(dir="."))
    random = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(CLASSES))
    files = []
    for number in range(MASK_FILES):
        files.append(str(folder / f"{number}.png"))
        blocks = random.integers(0, CLASSES, (6, 8), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((32, 32), np.uint8))).save(files[-1])
    keys = [key_of_bytes(str(number).encode()) for number in range(images)]
    stores = []
    for number, shape in enumerate(SHAPES):
        spec = Spec("random", "0" * 64, f"map {number}", "none", {}, None, "fp32", "float16", "none")
        stores.append(FeatureCache(folder / "cache", spec))
        with stores[-1].writer() as writer:
            for start in range(0, images, 10):
                some = keys[start : start + 10]
                writer.append(some, random.normal(size=(len(some), *shape)).astype(np.float16), seconds=0.0)
    locations = [files[number % MASK_FILES] for number in range(images)]
    masks = MaskTargets(locations, MaskClasses(names, False, tuple((n, n) for n in range(CLASSES))), BUFFER)
    places = np.arange(images)
    train_rows, val_rows = (
        StreamedFeatureRows(stores, [keys[place] for place in part], part, BUFFER)
        for part in (places[: 4 * images // 5], places[4 * images // 5 :])
    )
    problem = FitProblem(
        *(train_rows, val_rows, Dense(names), HeadConfig(fit_epochs=1), 0, torch.device("cpu")),
        maps=MapLayout(SHAPES),
        targets=masks,
    )
    train_head("linear", problem)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images": images, "peak": peak, "bytes": sum(store.size_on_disk for store in stores)}


def main(arguments: list[str] | None = None) -> None:
    """Measure each size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_500, 6_000])
    options = parser.parse_args(arguments)
    lines, first = [], 0
    for images in options.images:
        with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
            measured = in_fresh_process("segmentation_memory.train", Path(folder), images=images)
        first = first or measured["peak"]
        lines.append(
            [
                f"{images:,}",
                f"{measured['bytes'] / 1e6:,.0f}",
                f"{measured['peak'] / 1e6:,.0f}",
                f"{measured['peak'] / first:.3f}",
            ]
        )
    echo("", table(["images", "maps, MB", "peak memory, MB", "of the first"], lines))


if __name__ == "__main__":
    main()

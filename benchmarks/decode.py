"""From the bytes of a file to pixels, on one core: as stage 1 does it with TorchCodec and without, and Pillow alone.

::

    python benchmarks/decode.py            # half a minute

Drawn photographs as JPEG of 500 x 375 and PNG of 300 x 300. Given are milliseconds of processor time for an image,
medians of so many turns, all ways in each; the ratio is of Pillow alone to stage 1. That all ways give the same pixels
is checked.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.cli.output import echo
from pipeline.text import table
from stages.data.images import codecs
from stages.data.images.decode import decode

KINDS = {"JPEG": (500, 375), "PNG": (300, 300)}
"""Format -> width and height."""


def by_pillow(data: bytes) -> Tensor:
    """Return the pixels, uint8 [3, H, W], as people write it."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def without_torchcodec(data: bytes) -> Tensor:
    """Return what stage 1 makes of a file where TorchCodec is not there."""
    found, codecs.torchcodec_decoders = codecs.torchcodec_decoders, lambda: None
    try:
        return decode(data)
    finally:
        codecs.torchcodec_decoders = found


WAYS: dict[str, Callable[[bytes], Tensor]] = {
    "Pillow": by_pillow,
    "without TorchCodec": without_torchcodec,
    "stage 1": decode,
}


def photographs(kind: str, count: int) -> list[bytes]:
    """Return encoded images, smooth with some noise, all different."""
    width, height = KINDS[kind]
    files = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(pixels + random.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noisy).save(encoded, kind, **({"quality": 90} if kind == "JPEG" else {}))
        files.append(encoded.getvalue())
    return files


def milliseconds(way: Callable[[bytes], Tensor], files: list[bytes]) -> float:
    """Return the processor time of this thread for an image."""
    started = time.thread_time()
    for data in files:
        way(data)
    return 1000 * (time.thread_time() - started) / len(files)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="once each: to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if codecs.torchcodec_decoders() is None:
        raise SystemExit(f"TorchCodec does not load here: {codecs.INSTALL}")
    rows = []
    for kind, (width, height) in KINDS.items():
        files = photographs(kind, 2 if options.quick else 40)
        for data in files:
            expected = by_pillow(data)
            if not all(torch.equal(way(data), expected) for way in WAYS.values()):
                raise SystemExit(f"the pixels of a {kind} differ")
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(1 if options.quick else options.repetitions):
            for name, way in WAYS.items():
                times[name].append(milliseconds(way, files))
        medians = [statistics.median(times[name]) for name in WAYS]
        rows.append([f"{kind} {width} x {height}", *(f"{median:.2f}" for median in medians)])
        rows[-1].append(f"{medians[0] / medians[-1]:.2f}")
    echo(table(["image", *(f"{name}, ms" for name in WAYS), "ratio"], rows, 1))


if __name__ == "__main__":
    main()

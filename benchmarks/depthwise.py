"""The gradients of depthwise convolutions on a CPU: torch's own, and those that stage 3 computes.

::

    python benchmarks/depthwise.py            # a minute

Maps and kernels of EfficientNet-Lite0, MobileNetV3-L and ConvNeXt, batches of 32, random numbers. Given are
milliseconds of a forward and backward pass, medians of so many turns, both sides in each; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import torch
from torch import Tensor, nn

from pipeline.cli.output import echo
from pipeline.text import table
from stages.network.graph.depthwise_conv import conv2d_with_weight
from stages.runtime.allocator import tune_malloc

SHAPES = [(1152, 7, 3, 1), (1152, 7, 5, 1), (672, 14, 5, 2), (240, 28, 3, 2), (960, 7, 5, 1), (384, 14, 7, 1)]
"""Channels, side of the map, side of the kernel, stride."""

BATCH = 32


def seconds(layer: nn.Conv2d, x: Tensor, gradient: Tensor, dtype: torch.dtype, *, ours: bool) -> float:
    """Return the time of a pass forward and backward."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = conv2d_with_weight(layer, x, layer.weight, layer.bias) if ours else layer(x)
    output.backward(gradient)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="once each: to see that it works")
    options = parser.parse_args()
    tune_malloc()
    rows = []
    for channels, side, kernel, stride in SHAPES:
        layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(BATCH, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
            x.requires_grad_()
            gradient = torch.randn(BATCH, channels, *2 * (-(-side // stride),), dtype=dtype)
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            times_by_side: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(1 if options.quick else options.repetitions):
                for is_ours, times in times_by_side.items():
                    times.append(seconds(layer, x, gradient, dtype, ours=is_ours))
            torch_ms, own_ms = (1000 * statistics.median(times_by_side[is_ours]) for is_ours in (False, True))
            row = [
                f"{channels} x {side} x {side}",
                f"{kernel} x {kernel}",
                str(stride),
                str(dtype).removeprefix("torch."),
            ]
            rows.append([*row, f"{torch_ms:.1f}", f"{own_ms:.1f}", f"{torch_ms / own_ms:.1f}"])
    echo(table(["map", "kernel", "stride", "in", "torch, ms", "here, ms", "ratio"], rows, 1))


if __name__ == "__main__":
    main()

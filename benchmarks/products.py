"""Matrix products in float32 on a CPU: torch's own, which are MKL's, and those that cutonce takes on this processor.

::

    python benchmarks/products.py                    # some minutes
    python benchmarks/products.py --networks vit_b_16 --turns 15

Of random numbers: the products of stage 2 in the shapes of some heads, then whole networks, in batches of 16 on one
thread as each core computes them. Seconds are those of the thread, so that what else the machine does is not in it;
both sides take turns, and the ratio is the median of the turns' ratios with quartiles. Where oneDNN is not taken, the
ratios are 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
import torch
from torch import Tensor

from pipeline.cli.output import echo
from pipeline.text import table
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.runtime import products
from stages.runtime.allocator import tune_malloc

NETWORKS = (
    "vit_b_16",
    "swin_t",
    "convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "timm:mobilevit_s",
    "efficientnet_lite0",
)

SHAPES = {
    "scores of 50,000 x 1,280, 100 classes": (50_000, 1280, 100),
    "scores of 2,000 x 25,000, 5 classes": (2000, 25_000, 5),
    "gradient of 2,000 x 25,000, 5 classes": (5, 2000, 25_000),
    "products of 2,000 rows of 25,000": (2000, 25_000, 2000),
    "products of 1,280 columns of 8,000": (1280, 8000, 1280),
}
"""Rows, numbers that are summed, and columns of a product."""

BATCH = 16


def seconds(computed: Callable[[], object], *, torchs_own: bool) -> float:
    """Return the time of a call, as the thread spent it."""
    taken = patch.object(products, "onednn_is_quicker", lambda: not torchs_own and products_taken())
    with taken, torch.inference_mode():
        started = time.thread_time()
        computed()
        return time.thread_time() - started


products_taken = products.onednn_is_quicker


def compared(computed: Callable[[], object], turns: int) -> list[str]:
    """Return milliseconds of both sides, and the ratio."""
    taken = {own: [seconds(computed, torchs_own=own) for _ in range(2)][1:] for own in (True, False)}  # the first warms
    for _ in range(turns - 1):
        for own, times in taken.items():
            times.append(seconds(computed, torchs_own=own))
    torchs, ours = np.array(taken[True]), np.array(taken[False])
    low, ratio, high = np.quantile(torchs / ours, [0.25, 0.5, 0.75])
    milliseconds = [f"{1000 * np.median(times):,.1f}" for times in (torchs, ours)]
    return [*milliseconds, f"{ratio:.2f} ({low:.2f} to {high:.2f})"]


def network(name: str) -> Callable[[], object]:
    """Return a pass of a network, below its automatic cut."""
    backbone = load_backbone(name, "none")
    size = backbone.preprocessing.image_size
    graph = CutGraph(backbone.module, size)
    cut = graph.resolve("auto")
    trunk = FrozenTrunk(graph, [(cut, Pool("avg", cut))], "fp32", torch.device("cpu"))
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    return lambda: trunk(images)


def matrices(rows: int, summed: int, columns: int) -> Callable[[], Tensor]:
    """Return a product of random numbers."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows, summed, generator=generator), torch.randn(columns, summed, generator=generator)
    return lambda: products.linear(left, right)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="once each, and small: to see that it works")
    options = parser.parse_args()
    tune_malloc()
    torch.set_num_threads(1)
    turns = 1 if options.quick else options.turns
    shapes = {"a product of 64 columns": (64, 64, 64)} if options.quick else SHAPES
    echo(f"oneDNN is taken: {'yes' if products_taken() else 'no'}")
    header = ["", "torch's own, ms", "cutonce, ms", "ratio"]
    echo(table(header, [[name, *compared(matrices(*shape), turns)] for name, shape in shapes.items()]))
    echo(table(header, [[name, *compared(network(name), turns)] for name in options.networks]))


if __name__ == "__main__":
    main()

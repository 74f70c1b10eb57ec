"""One pass for the statistics of all depths, against one cut: what it costs, and what is found in which network.

::

    python benchmarks/taps.py                                # some minutes; --taps blocks, --pool avg for less
    python benchmarks/taps.py --networks efficientnet_lite0 --turns 25

Random weights, which change nothing of the time, and random images in batches of 16 on one thread, as each core of a
CPU computes them while extracting. Both sides take turns; the ratio is the median of the turns' ratios, with quartiles,
and seconds are those of the thread, so that what else the machine does is not in it. Decoding, which is the same for
both, is not in it either.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
import torch
from torch import nn

from pipeline.cli.output import echo
from pipeline.text import table
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.tap_places import find_taps, layout_of_taps
from stages.network.graph.tapped_trunk import TappedTrunk
from stages.network.graph.trunk import FrozenTrunk, Precision
from stages.runtime.allocator import tune_malloc

NETWORKS = (
    *("efficientnet_lite0", "efficientnet_lite2", "resnet18", "resnet50", "mobilenet_v3_large", "regnet_y_400mf"),
    *("densenet121", "convnext_tiny", "swin_t", "vit_b_16"),
    *("timm:convnext_atto", "timm:mobilenetv4_conv_small", "timm:vit_tiny_patch16_224"),
)

BATCH = 16


def seconds(trunk: nn.Module, images: torch.Tensor) -> float:
    """Return the time of a pass, as the thread spent it."""
    started = time.thread_time()
    with torch.inference_mode():
        trunk(images)
    return time.thread_time() - started


def row_of(
    name: str, taps: str, pools: list[str], turns: int, image_size: int | None, precision: Precision
) -> list[str]:
    """Return what is found in a network, and what it costs."""
    backbone = load_backbone(name, "none", image_size)
    size = backbone.preprocessing.image_size
    graph, device = CutGraph(backbone.module, size), torch.device("cpu")
    places = find_taps(graph, taps, pools)
    kinds = [place.kind for place in places]
    automatic = graph.resolve("auto")
    cut = FrozenTrunk(graph, [(automatic, Pool("avg", automatic))], precision, device)
    tapped = TappedTrunk(graph, places, precision, device)
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    times = np.array([[seconds(cut, images), seconds(tapped, images)] for _ in range(turns + 1)][1:])
    low, ratio, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    counts = [f"{kinds.count(kind)}" for kind in ("stage", "block", "inner")]
    milliseconds = [f"{1000 * side / BATCH:.1f}" for side in np.median(times, axis=0)]
    numbers = f"{layout_of_taps(places).width:,}"
    return [name, *counts, numbers, *milliseconds, f"{ratio:.2f} ({low:.2f} to {high:.2f})"]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--taps", default="all")
    parser.add_argument("--pool", default="avg,max,std")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    rows = [
        row_of(name, options.taps, options.pool.split(","), options.turns, options.image_size, options.precision)
        for name in options.networks
    ]
    header = ["network", "stages", "blocks", "inner", "numbers", "one cut, ms", "taps, ms", "ratio"]
    echo(table(header, rows, 1))


if __name__ == "__main__":
    main()

"""One pass for the statistics of all depths, against one cut: what it costs, and what is found in which network.

::

    python benchmarks/taps.py                                # some minutes; --taps blocks, --pool avg for less
    python benchmarks/taps.py --networks efficientnet_lite0 --turns 25
    python benchmarks/taps.py --extraction small --networks efficientnet_lite0    # from files to the cache
    NUMBA_CACHE_DIR=$(mktemp -d) python benchmarks/taps.py --networks resnet18    # its loops compiled as for a new user

Random weights, which change nothing of the time, and random images in batches of 16 on one thread, as each core of a
CPU computes them while extracting. Both sides take turns; the ratio is the median of the turns' ratios, with quartiles,
and seconds are those of the thread, so that what else the machine does is not in it. Decoding, which is the same for
both, is not in it either. With `--extraction` it is, and all else that an extraction does, up to the features in the
cache: each turn is two processes of their own on all cores, one after the other, over images made for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import photographs
from benchmarks.measurement import Measurement, measure
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


def seconds_until_loops(precision: Precision) -> float:
    """Return how long a process waits for the loops of statistics, compiled or read from where they are kept."""
    started = time.perf_counter()
    from stages.network.graph.pooling_kernels import compiled_kernel

    compiled_kernel(torch.bfloat16 if precision == "bf16" else torch.float32)
    return time.perf_counter() - started


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
    counts = [f"{kinds.count(kind)}" for kind in ("stage", "block", "inner")]
    milliseconds = [f"{1000 * side / BATCH:.1f}" for side in np.median(times, axis=0)]
    numbers = f"{layout_of_taps(places).width:,}"
    return [name, *counts, numbers, *milliseconds, ratio_of(times)]


def extraction_row(name: str, options: argparse.Namespace, images: Path, folder: Path) -> list[str]:
    """Return what the whole of an extraction takes for one cut, and for all taps."""
    common = {"backbone": name, "weights": "none", "precision": options.precision, "device": "cpu"}
    sides: list[dict[str, str]] = [{}, {"taps": options.taps, "pool": options.pool}]

    def run(side: int, turn: int) -> Measurement:
        own = folder / f"{name.replace(':', '_')}-{side}-{turn}"
        own.mkdir()
        return measure("ours.extract_features", own, images=str(images), warm=True, **common, **sides[side])

    turns = [[run(side, turn) for side in (0, 1)] for turn in range(options.turns)]
    times = np.array([[measured.seconds for measured in turn] for turn in turns])
    milliseconds = [f"{1000 * side / options.images:.1f}" for side in np.median(times, axis=0)]
    return [name, f"{turns[0][1].features().shape[1]:,}", *milliseconds, ratio_of(times)]


def ratio_of(times: NDArray[np.float64]) -> str:
    """Return the median of the turns' ratios, with quartiles; times are [turns, 2]."""
    low, ratio, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--taps", default="all")
    parser.add_argument("--pool", default="avg,max,std")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--extraction", choices=["elpv", *photographs.SIZES], help="of which images")
    parser.add_argument("--images", type=int, default=800)
    options = parser.parse_args(arguments)
    if options.extraction:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images")
            photographs.make(options.extraction, options.images, str(images))
            rows = [extraction_row(name, options, images, Path(folder)) for name in options.networks]
        echo(table(["network", "numbers", "one cut, ms", "taps, ms", "ratio"], rows, 1))
        return
    torch.set_num_threads(1)
    tune_malloc()
    echo(f"numba's loops are there after {seconds_until_loops(options.precision):.1f} s")
    rows = [
        row_of(name, options.taps, options.pool.split(","), options.turns, options.image_size, options.precision)
        for name in options.networks
    ]
    header = ["network", "stages", "blocks", "inner", "numbers", "one cut, ms", "taps, ms", "ratio"]
    echo(table(header, rows, 1))


if __name__ == "__main__":
    main()

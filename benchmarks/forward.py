"""What each change to the forward pass brings on a CPU, one after the other, and what was tried besides.

::

    python benchmarks/forward.py                                     # EfficientNet-Lite0 and ResNet-18, some minutes
    python benchmarks/forward.py --backbone resnet50 --repetitions 5

Every step runs in a fresh process, in turn, several times; images are random numbers that are in memory already, in
batches of 32. Given are medians; the ratios are to the first step, repetition by repetition, with their range.
``extract.py`` measures all of stage 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import Measurement, in_fresh_process, measuring
from pipeline.cli.output import echo
from pipeline.text import table

STEPS = {
    "eager": "eager, NCHW, float32, as tutorials have it",
    "kept": "+ freed memory is kept",
    "channels_last": "+ channels_last",
    "folded": "+ BatchNorm folded, inference_mode",
    "fused": "+ activations and padding in the convolutions",
    "threads": "+ a batch per core: stage 1 in fp32",
    "notebook": "the same beside six threads, as a notebook has them",
    "bf16-apart": "bf16 instead, without what is in the convolutions",
    "bf16": "bf16 instead: stage 1 in bf16",
    "openvino": "by OpenVINO: stage 1 in fp32 with --engine openvino",
    "openvino-bf16": "by OpenVINO in bf16",
    "compiled": "tried: torch.compile on `folded`",
}
BATCH = 32


def step(name: str, backbone: str, batches: int) -> Measurement:
    """Take so many batches through the network as one of `STEPS` does it; called in a process of its own."""
    from stages.runtime.openmp import configure_openmp

    keeps_memory = name != "eager"
    if keeps_memory:
        configure_openmp()  # before torch is imported
    if name == "notebook":
        _start_threads(6)
    import time
    from contextlib import nullcontext
    from unittest.mock import patch

    import torch

    from stages.config.features import FeatureConfig
    from stages.extraction.extractor import build_extractor
    from stages.network.backbones.registry import load_backbone
    from stages.network.graph import trunk
    from stages.runtime.allocator import tune_malloc
    from stages.runtime.threads import single_thread_pool

    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    # built before the block ends: each operator is by itself in what is built within
    apart = patch.object(trunk, "can_fuse", lambda precision, device: False)
    started = time.perf_counter()
    if name in ("threads", "notebook", "bf16-apart", "bf16", "openvino", "openvino-bf16"):
        features = FeatureConfig(
            backbone=backbone,
            weights="none",
            image_size=224,
            precision="bf16" if "bf16" in name else "fp32",
            extract_batch_size=BATCH,
            engine="openvino" if name.startswith("openvino") else "cores",
            device="cpu",
        )
        with apart if name.endswith("apart") else nullcontext():
            extractor = build_extractor(features)
            _ = extractor.trunk
        extractor.forward_rows(images)  # what is compiled is, before threads ask for it
        with single_thread_pool(extractor.threads, "forward") as pool:
            return _timed(batches, started, lambda count: list(pool.map(extractor.forward_rows, [images] * count)))
    if keeps_memory:
        tune_malloc()
    loaded = load_backbone(backbone, "none", 224)
    network = loaded.module
    of_trunk = name in ("folded", "fused", "compiled")
    if of_trunk:
        features = FeatureConfig(backbone=backbone, weights="none", image_size=224, extract_batch_size=BATCH)
        with nullcontext() if name == "fused" else apart:
            extractor = build_extractor(features)
            _ = extractor.trunk
        network = torch.compile(extractor.trunk) if name == "compiled" else extractor.trunk
    elif name == "channels_last":
        network = network.to(memory_format=torch.channels_last)

    layout = torch.contiguous_format if name in ("eager", "kept") else torch.channels_last

    def run(count: int) -> None:
        with torch.inference_mode() if of_trunk else torch.no_grad():
            for _ in range(count):
                network(loaded.preprocessing.normalize(images).contiguous(memory_format=layout))

    return _timed(batches, started, run)


def _start_threads(count: int) -> None:
    """Start threads that wait, each with an arena of its own, which glibc hands to later threads too."""
    import threading
    import time

    def wait() -> None:
        block = bytearray(1 << 15)
        ready.wait()
        time.sleep(1e6)
        del block

    ready = threading.Barrier(count + 1)
    for _ in range(count):
        threading.Thread(target=wait, daemon=True).start()
    ready.wait()


def _timed(batches: int, started: float, run) -> Measurement:
    import time

    run(2)
    built = time.perf_counter() - started
    with measuring(batches * BATCH) as measurement:
        run(batches)
    measurement.details = {"built": built}
    return measurement


def main() -> None:
    """Measure the steps in turn, and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["efficientnet_lite0", "resnet18"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12, help="batches of 32 images in each run (default: 12)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    for backbone in options.backbone:
        runs_by_step: dict[str, list[Measurement]] = {name: [] for name in options.steps}
        with tempfile.TemporaryDirectory() as folder:
            for repetition in range(options.repetitions):
                for name in options.steps[:: -1 if repetition % 2 else 1]:
                    arguments = {"name": name, "backbone": backbone, "batches": options.batches}
                    runs_by_step[name].append(
                        Measurement(**in_fresh_process("forward.step", Path(folder), **arguments))
                    )
        rows = []
        for name, runs in runs_by_step.items():
            ratios = [
                run.rate / baseline_run.rate
                for run, baseline_run in zip(runs, runs_by_step[options.steps[0]], strict=True)
            ]
            faults, built = (
                statistics.median(values)
                for values in ([run.minor_faults / run.images for run in runs], [run.details["built"] for run in runs])
            )
            rate = statistics.median(run.rate for run in runs)
            times = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            rows.append([STEPS[name], f"{rate:.1f}", times, f"{faults:,.0f}", f"{built:.1f}"])
        echo("", f"{backbone}, 224 x 224, random weights", "")
        echo(table(["step", "images/s", "ratio", "page faults per image", "built and warm, s"], rows, 1))
    machine = in_fresh_process("ours.machine", Path(tempfile.gettempdir()))
    echo("", "; ".join(f"{property_name} {value}" for property_name, value in machine.items()))


if __name__ == "__main__":
    main()

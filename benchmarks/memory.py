"""Does the memory of an extraction grow with the number of images? Peak resident memory at three sizes, a process each.

The trunk is replaced by an average over patches, so that 200,000 images take minutes; reading, sharing, writing and
the caches are real. Each sample has a key of its own; the files behind them are a few hundred photographs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package


def measure(samples: int, folder: Path) -> dict[str, float]:
    """Extract so many samples, and return peak memory in bytes before and after, and the seconds it took."""
    from stages.runtime.openmp import configure_openmp

    configure_openmp()  # before torch is imported
    import numpy as np
    import torch
    from PIL import Image

    from cache import key_of_bytes
    from stages.config.features import FeatureConfig
    from stages.data.manifest import Manifest
    from stages.extraction.extract import extract
    from stages.extraction.extractor import build_extractor
    from stages.tasks.single_label import SingleLabel

    class PatchAverages(torch.nn.Module):
        """Stands for a trunk: 1,280 numbers from each image."""

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            rows = torch.nn.functional.adaptive_avg_pool2d(images, (20, 20)).flatten(1)
            return [torch.cat([rows, rows[:, :80]], dim=1)]

    numbers = np.random.default_rng(0)
    files = []
    for index in range(200):
        files.append(str(folder / f"{index}.jpg"))
        Image.fromarray(numbers.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(files[-1])
    manifest = Manifest(
        locations=[files[index % len(files)] for index in range(samples)],
        targets=np.zeros(samples, np.int64),
        splits=["train"] * samples,
        keys=[key_of_bytes(str(index).encode()) for index in range(samples)],
        task=SingleLabel(["one", "two"]),
        unreadable=[],
        notes=[],
        keyed_ns=time.time_ns() + 3600 * 10**9,  # the keys are made up: files that are older are not asked
    )
    prepared = build_extractor(FeatureConfig(image_size=32, cache=folder / "cache", extract_batch_size=32))
    extractor = replace(prepared, trunk=PatchAverages())
    extract(extractor, manifest.select(range(1000)))  # libraries, threads and buffers are there now
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    extract(extractor, manifest)
    seconds = time.perf_counter() - started
    memory_after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"samples": samples, "before": memory_before, "after": memory_after, "seconds": seconds}


def line_of(measured: Mapping[str, float], first_peak: float) -> str:
    """Return the line of the table for what `measure` returned; `first_peak` is that of the first line, in bytes."""
    samples, peak = int(measured["samples"]), measured["after"]
    rate = samples / measured["seconds"]
    return f"{samples:>9,}  {peak / 1e6:>9,.0f}  {peak / first_peak:>12.3f}  {rate:>9,.0f}"


def main() -> None:
    """Measure each size in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.child, Path(folder))))
        return
    print(f"{'samples':>9}  {'peak, MB':>9}  {'of the first':>12}  {'samples/s':>9}")
    first_peak = 0.0
    for samples in options.samples:
        command = [sys.executable, __file__, "--child", str(samples)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first_peak = first_peak or measured["after"]
        print(line_of(measured, first_peak), flush=True)


if __name__ == "__main__":
    main()

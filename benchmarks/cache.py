"""How fast the feature cache is read and written, how quickly a large one opens, and what compression brings.

Run it on a machine that does nothing else::

    python benchmarks/cache.py                       # some minutes on two cores, and 5 GB of disk
    python benchmarks/cache.py --rows 1000000        # other sizes
    python benchmarks/cache.py --quick               # a few seconds, to see that it works

All sides of a table take turns in one process, several times over; given are medians, and after a ratio its smallest
and largest value over the turns. The files are in the page cache of the system: what is compared is the work of the
processor. Every side ends with the same rows in memory of its own: in a new array, for which the system has to hand out
memory, or, where it says so, in an array that was there before. Cutonce alone verifies checksums. It begins each time
with a cache just opened, of which nothing has been read; opening has a table of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from subprocess import run
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.measurement import ROOT, in_fresh_process
from cache import FeatureCache, Spec, key_of_bytes
from pipeline.cli.output import echo
from pipeline.text import byte_count, table

SPEC = Spec("none", "none", "none", "none", {}, None, "fp32", "float16", "none")
VECTOR, MAP = (1280,), (256, 14, 14)
SHORT = (64,)
"""Rows of the cache that is opened: what that costs does not depend on their length."""

Features = NDArray[np.float16]
Side = Callable[[], object] | tuple[Callable[[], Any], Callable[[Any], object]]
"""What is timed; or what is not, and what is then timed and given its result."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    repetitions: int
    data_bytes: int
    memory_bytes: int
    """Allowed to batches: a fraction of the data."""
    opened_rows: int
    real: bool
    """Whether compression is measured on features of images, which takes a minute to extract, or on drawn numbers."""


FULL = Scale(repetitions=7, data_bytes=512 << 20, memory_bytes=128 << 20, opened_rows=1_000_000, real=True)
QUICK = Scale(repetitions=1, data_bytes=16 << 20, memory_bytes=96 << 20, opened_rows=20_000, real=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little data, to see that it works")
    parser.add_argument("--rows", type=int, help="vectors that are read and written (default: 512 MiB of them)")
    parser.add_argument("--folder", type=Path, help="where to make the files (default: the system's temporary folder)")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, shape in (("vectors", VECTOR), ("feature maps", MAP)):
            rows = scale.data_bytes // (2 * math.prod(shape))
            features = drawn(options.rows if options.rows and shape == VECTOR else rows, shape)
            compare_formats(name, features, scale, Path(folder) / name.replace(" ", "-"))
        compare_opening(scale, Path(folder) / "opening")
        for name, features in real_features(Path(folder) / "real") if scale.real else [("drawn numbers", sparse())]:
            compare_compression(name, features, scale, Path(folder) / name.replace(" ", "-"))
    echo(f"{os.cpu_count()} cores; load when this ended: {os.getloadavg()[0]:.1f}")


def compare_formats(name: str, features: Features, scale: Scale, folder: Path) -> None:
    """Print how fast rows are written, read whole, read in another order, and served in shuffled batches."""
    folder.mkdir()
    keys = keys_of(len(features))
    files = {suffix: folder / f"features.{suffix}" for suffix in ("bin", "safetensors", "h5")}

    write_seconds = time_in_turn(
        scale,
        {
            "numpy tofile": lambda: (features.tofile(files["bin"]), to_disk(files["bin"])),
            "safetensors": lambda: (save_file({"rows": features}, files["safetensors"]), to_disk(files["safetensors"])),
            "h5py, one array": lambda: write_hdf5(files["h5"], features),
            "cutonce": written_anew(folder / "written", keys, features),
        },
    )
    cache = write_cache(folder / "cache", keys, features)
    mapped = np.memmap(files["bin"], features.dtype, "r", shape=features.shape)
    order = np.random.default_rng(0).permutation(len(keys))
    shuffled_keys = [keys[index] for index in order]
    out = np.zeros_like(features)
    batch_rows = 256 if features.ndim == 2 else 16

    opened = partial(open_anew, cache)

    def map_again() -> NDArray[Any]:
        return np.memmap(files["bin"], features.dtype, "r", shape=features.shape)

    def batches_of_mapped() -> None:
        for start in range(0, len(order), batch_rows):
            mapped[order[start : start + batch_rows]]

    def batches_of_cache(cache: FeatureCache) -> None:
        for _ in cache.batches(keys, batch_rows, seed=0, memory_bytes=scale.memory_bytes):
            pass

    def parts_of_cache(cache: FeatureCache) -> None:
        part_rows = 16 * batch_rows
        for start in range(0, len(keys), part_rows):
            part = keys[start : start + part_rows]
            cache.read(part, out=out[: len(part)])

    read_seconds = time_in_turn(
        scale,
        {
            "all: numpy.memmap": (map_again, np.array),
            "all: safetensors": lambda: load_file(files["safetensors"])["rows"],
            "all: h5py": lambda: read_hdf5(files["h5"]),
            "all: cutonce": (opened, lambda cache: cache.read(keys)),
            "all, array given: numpy.memmap": (map_again, lambda array: np.copyto(out, array)),
            "all, array given: cutonce": (opened, lambda cache: cache.read(keys, out=out)),
            "permuted: numpy.memmap": (map_again, lambda array: array[order]),
            "permuted: cutonce": (opened, lambda cache: cache.read(shuffled_keys)),
            "in parts, in order: cutonce": (opened, parts_of_cache),
            "random batches: numpy.memmap": batches_of_mapped,
            "shuffled batches: cutonce": (opened, batches_of_cache),
        },
    )
    title = f"{len(features):,} {name} {features.shape[1:]} of float16, {byte_count(features.nbytes)}"
    echo(
        "",
        f"Writing {title}, to the disk (fsync)",
        "",
        speeds(write_seconds, features.nbytes, {"cutonce": "numpy tofile"}),
    )
    compared_with = {
        "all: safetensors": "all: numpy.memmap",
        "all: h5py": "all: numpy.memmap",
        "all: cutonce": "all: numpy.memmap",
        "all, array given: cutonce": "all, array given: numpy.memmap",
        "permuted: cutonce": "permuted: numpy.memmap",
        "shuffled batches: cutonce": "in parts, in order: cutonce",
    }
    settings_text = f"batches of {batch_rows} rows, {byte_count(scale.memory_bytes)} of memory allowed"
    echo("", f"Reading {title}; {settings_text}", "", speeds(read_seconds, features.nbytes, compared_with))


def compare_opening(scale: Scale, folder: Path) -> None:
    """Print what it costs to open a cache of many rows, and to ask it for all of them."""
    rows = scale.opened_rows
    cache = write_cache(folder, keys_of(rows), drawn(rows, SHORT), shard_bytes=SHORT[0] * 2 * rows // 20)
    arguments = {"root": str(cache.root), "rows": rows}
    runs = [in_fresh_process("cache.opening", ROOT, **arguments) for _ in range(scale.repetitions)]
    cells = [
        [
            step,
            f"{statistics.median(run[step][0] for run in runs):.2f}",
            byte_count(max(run[step][1] for run in runs)),
        ]
        for step in runs[0]
    ]
    echo("", f"A cache of {rows:,} rows, in fresh processes", "", table(["", "seconds", "more memory"], cells))


def opening(root: str, rows: int) -> dict[str, tuple[float, int]]:
    """Return seconds and peak memory of opening a cache, and of asking for its keys; called in a fresh process."""
    keys = keys_of(rows)
    cache = FeatureCache(root, SPEC)
    results = {}
    start_memory = peak_memory()
    for step, side in (("open", cache.refresh), ("missing(all keys)", lambda: cache.missing(keys))):
        started = time.perf_counter()
        side()
        seconds = time.perf_counter() - started
        results[step] = seconds, peak_memory() - start_memory
    return results


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what the next line gives counts the parent process where there is this file
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare_compression(name: str, features: Features, scale: Scale, folder: Path) -> None:
    """Print size and speed of the ways to compress the same features."""
    folder.mkdir()
    keys = keys_of(len(features))
    chunked = {"chunks": (max(1, (256 << 10) // features[0].nbytes), *features.shape[1:])}
    hdf5: dict[str, dict[str, Any]] = {
        "h5py gzip 1": {"compression": "gzip", "compression_opts": 1},
        "h5py shuffle + lzf": {"compression": "lzf", "shuffle": True},
    }
    if find_spec("hdf5plugin"):
        import hdf5plugin

        hdf5["hdf5plugin zstd 3"] = dict(hdf5plugin.Zstd(clevel=3))
        hdf5["hdf5plugin blosc2 zstd, shuffle"] = dict(hdf5plugin.Blosc2("zstd", 1, hdf5plugin.Blosc2.SHUFFLE))
        hdf5["hdf5plugin blosc2 lz4, shuffle"] = dict(hdf5plugin.Blosc2("lz4", 5, hdf5plugin.Blosc2.SHUFFLE))
    writing: dict[str, Side] = {}
    reading: dict[str, Side] = {}
    sizes: dict[str, int] = {}
    for kind in ("none", "gzip"):
        label = f"cutonce {kind}"
        cache = write_cache(folder / kind, keys, features, compression=kind)
        writing[label] = written_anew(folder / "written", keys, features, compression=kind)
        reading[label] = (partial(open_anew, cache), partial(FeatureCache.read, keys=keys))
        sizes[label] = sum(shard.stat().st_size for shard in (cache.path / "shards").iterdir())
    for number, (label, filters) in enumerate(hdf5.items()):
        path = folder / f"{number}.h5"
        write_hdf5(path, features, **chunked, **filters)
        writing[label] = partial(write_hdf5, path, features, **chunked, **filters)
        reading[label] = partial(read_hdf5, path)
        sizes[label] = path.stat().st_size
    write_seconds, read_seconds = time_in_turn(scale, writing), time_in_turn(scale, reading)
    cells = [
        [
            label,
            f"{features.nbytes / sizes[label]:.2f}",
            megabytes(features.nbytes, write_seconds[label]),
            megabytes(features.nbytes, read_seconds[label]),
        ]
        for label in sizes
    ]
    share = f"{(features == 0).mean():.0%} zeros"
    title = f"Compression of {len(features):,} {name} {features.shape[1:]}, {byte_count(features.nbytes)}, {share}"
    echo("", title, "", table(["", "times smaller", "write MB/s", "read MB/s"], cells))


def real_features(folder: Path) -> Iterator[tuple[str, Features]]:
    """Extract and yield features of photographs: pooled, after a ReLU, and of a linear layer."""
    data = "elpv" if find_spec("elpv_dataset") else "digits"
    cuts = {
        "pooled features": ("auto", "avg"),
        "maps after a ReLU": ("bn2", "none"),
        "linear maps": ("blocks.4", "none"),
    }
    for name, (cut, pool) in cuts.items():
        command = ["extract", "--data", data, "--cut", cut, "--pool", pool, "--cache", str(folder / cut)]
        run([sys.executable, "-m", "pipeline", *command], cwd=ROOT, check=True, capture_output=True)
        [document] = (folder / cut).glob("*/spec.json")
        cache = FeatureCache(folder / cut, Spec.from_json(json.loads(document.read_text())["spec"]))
        yield f"{name} of {data}", cache.read(cache.keys())


def time_in_turn(scale: Scale, sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Return the seconds that each side took each time."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(scale.repetitions + 1):
        for name, side in sides.items():
            prepare, work = side if isinstance(side, tuple) else (lambda: None, lambda _, side=side: side())
            prepared = prepare()
            started = time.perf_counter()
            result = work(prepared)
            took = time.perf_counter() - started
            del result
            if repetition:  # the first turn brings files and code into memory
                seconds[name].append(took)
    return seconds


def speeds(seconds: Mapping[str, Sequence[float]], size: int, against: Mapping[str, str]) -> str:
    """Return a table of sides, with the ratio of the speed of some to that of another."""
    cells = []
    for name, side_seconds in seconds.items():
        ratio = ""
        if name in against:
            ratios = [
                other_seconds / own_seconds
                for other_seconds, own_seconds in zip(seconds[against[name]], side_seconds, strict=True)
            ]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) of {against[name]}"
        cells.append([name, megabytes(size, side_seconds), ratio])
    return table(["", "MB/s", "ratio"], cells)


def megabytes(size: int, seconds: Sequence[float]) -> str:
    return f"{size / statistics.median(seconds) / 1e6:.0f}"


def keys_of(count: int) -> list[str]:
    return [key_of_bytes(index.to_bytes(8, "little")) for index in range(count)]


def drawn(rows: int, shape: tuple[int, ...]) -> Features:
    """Return finite numbers without a pattern."""
    return np.random.default_rng(0).integers(0, 0x7C00, (rows, *shape), dtype=np.uint16).view(np.float16)


def sparse() -> Features:
    """Return numbers most of which are zero."""
    return np.maximum(np.random.default_rng(0).standard_normal((2000, *VECTOR)) - 1, 0).astype(np.float16)


def write_cache(root: Path, keys: Sequence[str], features: Features, **options: Any) -> FeatureCache:
    """Write features as stage 1 does, in batches, here of some megabytes."""
    cache = FeatureCache(root, SPEC)
    step = max(1, (8 << 20) // features[0].nbytes)
    with cache.writer(**options) as writer:
        for start in range(0, len(keys), step):
            writer.append(keys[start : start + step], features[start : start + step])
    return cache


def written_anew(root: Path, keys: Sequence[str], features: Features, **options: Any) -> Side:
    """Return the side that writes a new cache, having removed the one of the last turn."""
    remove = partial(shutil.rmtree, root, ignore_errors=True)
    return remove, lambda _: write_cache(root, keys, features, **options)


def open_anew(cache: FeatureCache) -> FeatureCache:
    """Return the cache as a process that has read nothing of it yet has it."""
    cache = FeatureCache(cache.root, cache.spec)
    cache.refresh()
    return cache


def write_hdf5(path: Path, features: Features, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=features, **options)
    to_disk(path)


def read_hdf5(path: Path) -> Features:
    with h5py.File(path) as file:
        rows: Features = file["rows"][()]
    return rows


def to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()

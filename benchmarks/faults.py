"""What becomes of a cache when things go wrong: again and again, with real processes, real files and a real network.

::

    python benchmarks/faults.py                            # everything: some ten minutes
    python benchmarks/faults.py --only kill --kills 1000
    python benchmarks/faults.py --seed 7                   # other moments, other places

It prints one table: each fault and how often it was made, what must hold after it, how often that was looked at and how
often it held. It ends with status 1 if anything did not hold; standard error tells what and when. No speed is measured,
so the machine may be busy with other things. ``docs/reliability.md`` tells how each promise is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measurement import ROOT
from cache import DigestCache, FeatureCache, list_caches
from cache.errors import CacheError, CutonceError
from cache.shard_writer import ShardWriter
from pipeline.cli.output import echo
from pipeline.text import table
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest, load_manifest
from stages.extraction.extract import Extraction, extract
from stages.extraction.extractor import Extractor, build_extractor
from stages.extraction.read_features import drop_unreadable, read_features

FORK = multiprocessing.get_context("fork")

IMAGE_SIZE = 32
BATCH_SIZE = 8
ROW_BYTES = 1280 * 2
ONE_IN = 50
"""One file in so many is no image, so that there are rejections, too."""


@dataclass
class Tally:
    """A fault, how often it was made, and how often each promise was looked at and held.

    Attributes
    ----------
    fault : str
    times : int
    promises : dict of str to [looked at, held]
        In the order of the first look.
    notes : list of str
        What else was seen.
    """

    fault: str
    times: int = 0
    promises: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def once_more(self) -> Iterator[None]:
        """Count one time. An error that ends the block is a promise that does not hold."""
        self.times += 1
        try:
            yield
        except (CutonceError, OSError) as error:
            self.check(f"no error ({type(error).__name__})", False)
            print(f"    {error}", file=sys.stderr, flush=True)

    def check(self, promise: str, holds: bool) -> None:
        """Note whether a promise holds this time."""
        counts = self.promises.setdefault(promise, [0, 0])
        counts[0] += 1
        counts[1] += holds
        if not holds:
            print(f"  {self.fault}, time {self.times}, does not hold: {promise}", file=sys.stderr, flush=True)

    @property
    def held(self) -> bool:
        """Whether everything held that was looked at."""
        return all(times_checked == times_held for times_checked, times_held in self.promises.values())

    @property
    def rows(self) -> list[list[str]]:
        """Lines of the table."""
        return [
            ["" if line else f"{self.fault} ({self.times})", promise, str(times_checked), str(times_held)]
            for line, (promise, (times_checked, times_held)) in enumerate(self.promises.items())
        ]


class Laboratory:
    """Tiny photographs, a network that is ready, and what it makes of them when nobody disturbs it.

    Parameters
    ----------
    folder : Path
        For all files.

    Attributes
    ----------
    folder : Path
    random : Random
        Chooses moments and places.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = Random()
        self._keys = DigestCache(folder / "keys.sqlite")
        self._undisturbed = build_extractor(
            FeatureConfig(
                image_size=IMAGE_SIZE,
                cache=folder / "undisturbed",
                extract_batch_size=BATCH_SIZE,
                decode_threads=1,
                device="cpu",  # CUDA is of no use to a process that was forked from one that has begun with it
            )
        )

    @property
    def photographs(self) -> Path:
        """The folder of all photographs that were asked for until now."""
        return self.folder / "photographs"

    def manifest(self, count: int) -> Manifest:
        """Return the first `count` photographs."""
        make_photographs(count, self.photographs)
        manifest = load_manifest(DataConfig(str(self.photographs)), memo=self._keys)
        return manifest.select([index for index, path in enumerate(manifest.locations) if int(Path(path).stem) < count])

    def extractor(self, root: Path) -> Extractor:
        """Return the same network with a cache in another place."""
        (tap,) = self._undisturbed.taps
        moved_tap = replace(
            tap, cache=FeatureCache(root, tap.cache.spec), view_cache=FeatureCache(root, tap.view_cache.spec)
        )
        return replace(self._undisturbed, taps=(moved_tap,))

    def filled(self, root: Path, manifest: Manifest) -> Extractor:
        """Return the same network with a cache that holds this manifest, as the undisturbed one does then."""
        extract(self._undisturbed, manifest)
        extractor = self.extractor(root)
        extract_in_small_shards(extractor, manifest)
        return extractor

    def is_undisturbed(self, extractor: Extractor, manifest: Manifest) -> bool:
        """Return whether a cache is as if nothing had happened: every image, every bit, nothing twice, no damage."""
        extract(self._undisturbed, manifest)
        expected, actual = (drop_unreadable(checked, manifest) for checked in (self._undisturbed, extractor))
        later = opened(extractor)
        return (
            actual.keys == expected.keys
            and read_features(extractor, actual).tobytes() == read_features(self._undisturbed, expected).tobytes()
            and sum(shard.rows for shard in later.shards) == len(actual)
            and not (later.verify() or later.warnings)
        )

    def rows(self, keys: Sequence[str]) -> NDArray[Any]:
        """Return the undisturbed rows of keys that were filled in before."""
        return self._undisturbed.taps[0].cache.read(keys)

    def is_right(self, cache: FeatureCache, keys: Sequence[str]) -> bool:
        """Return whether the rows of these keys have every bit they should have."""
        return cache.read(keys).tobytes() == self.rows(keys).tobytes()


def make_photographs(count: int, folder: Path) -> None:
    """Bring a folder to `count` files: small pictures, each different from all others, and some that are none."""
    for number in range(count):
        path = folder / ("even", "odd")[number % 2] / f"{number:06}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % ONE_IN == ONE_IN - 1:
            path.write_text(f"no picture {number}")
        else:
            colors = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(colors).resize((48, 48), Image.Resampling.BICUBIC).save(path, quality=90)


def extract_in_small_shards(extractor: Extractor, manifest: Manifest, rows: int = 32) -> Extraction:
    """Extract with at most so many rows in memory; a multiple of two batches, so that no more are lost, exactly."""
    return extract(extractor, manifest, shard_bytes=rows * ROW_BYTES)


def opened(extractor: Extractor) -> FeatureCache:
    """Return the cache as a process that comes later sees it."""
    (tap,) = extractor.taps
    return FeatureCache(tap.cache.root, tap.cache.spec)


def shards_of(cache: FeatureCache) -> list[Path]:
    """Return the files of the shards."""
    return sorted((cache.path / "shards").glob("*.h5"))


def rejections_of(cache: FeatureCache) -> list[Path]:
    """Return the files that tell which samples can never have a row."""
    return sorted((cache.path / "rejected").glob("*.json"))


def keys_in(path: Path) -> list[str]:
    """Return the keys in a file of rejections, or of a shard, row by row, without the help of what is tried here."""
    if path.suffix == ".json":
        return list(json.loads(path.read_text())["reasons"])
    with h5py.File(path) as file:
        return [key.decode() for key in file["keys"]]


def temporary_files(cache: FeatureCache) -> list[Path]:
    """Return files that are being written, or were when their process died."""
    return list(cache.path.rglob("*.tmp"))


def is_tidy(cache: FeatureCache) -> bool:
    """Return whether nothing of dead processes is left when somebody has written a minute after they died."""
    for path in temporary_files(cache):
        os.utime(path, (time.time() - 120,) * 2)
    with cache.writer(), cache.leases():
        pass
    return not temporary_files(cache) and not list((cache.path / "claims").iterdir())


def start(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start work in a process of its own, which finds network and libraries ready."""
    process = FORK.Process(target=_alone, args=(work, arguments))
    process.start()
    return process


def _alone(work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # the threads of the parent are not here
    work(*arguments)


def seconds_of(work: Callable[..., Any], *arguments: Any) -> float:
    """Return how long a process takes for work, from its start to its end."""
    started = time.perf_counter()
    start(work, *arguments).join()
    return time.perf_counter() - started


def is_killed(process: BaseProcess, seconds: float) -> bool:
    """Kill a process after so many seconds; return whether it was still at work."""
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode not in (0, -SIGKILL):
        raise multiprocessing.ProcessError(f"a process that was to be killed ended with status {process.exitcode}")
    return process.exitcode == -SIGKILL


# -- killed while extracting -------------------------------------------------------------------------------------------


def kill(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Kill a process that extracts, again and again on one cache; add images when there is nothing left to do."""
    tally = Tally("kill -9 while extracting, on one cache")
    extractor = laboratory.extractor(laboratory.folder / "killed")
    cache = extractor.taps[0].cache
    manifest = laboratory.manifest(300)
    subset = manifest.select(range(100))
    longest = seconds_of(extract_in_small_shards, laboratory.extractor(laboratory.folder / "timed"), subset)
    losses: list[int] = []
    unfinished = 0
    while tally.times < times:
        if not cache.missing(manifest.keys):
            manifest = laboratory.manifest(len(manifest) + 500)
        shard_rows = laboratory.random.choice((16, 32, 64, 128))
        keys_before, temporary = set(cache.keys()), len(temporary_files(cache))
        computed = FORK.Value("q", 0, lock=False)
        process = start(extract_and_count, extractor, manifest, shard_rows, computed)
        if is_killed(process, laboratory.random.uniform(0, longest)):
            with tally.once_more():
                later = opened(extractor)
                losses.append(computed.value - (len(later) - len(keys_before)))
                unfinished += len(temporary_files(cache)) > temporary
                tally.check("it opens, and nothing is broken", not (later.warnings or later.damaged))
                tally.check("no row that was there is gone", keys_before <= set(later.keys()))
                tally.check("the rows lost are one shard's at most", 0 <= losses[-1] <= shard_rows)
                tally.check("verify finds no damage", later.verify() == [])
    extract(extractor, manifest)
    tally.check("at the end: undisturbed", laboratory.is_undisturbed(extractor, manifest))
    tally.check("at the end: nothing of dead processes is left", is_tidy(cache))
    tally.notes.append(
        f"{len(manifest)} files in the end; a kill lost {np.mean(losses):.0f} rows on average and {max(losses)} at "
        f"most, where 16, 32, 64 or 128 were allowed; {unfinished} kills left an unfinished file"
    )
    yield tally


def extract_and_count(extractor: Extractor, manifest: Manifest, rows: int, computed: Any) -> None:
    """Extract, and count the rows that are handed to the writer where they can be read after a kill."""
    append = ShardWriter.append

    def counted(writer: ShardWriter, keys: Sequence[str], *arguments: Any, **options: Any) -> None:
        computed.value += len(keys)
        append(writer, keys, *arguments, **options)

    ShardWriter.append = counted  # type: ignore[assignment, method-assign]
    extract_in_small_shards(extractor, manifest, rows)


# -- loss of power -----------------------------------------------------------------------------------------------------


def leave_unfinished_file(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave the beginning of a shard, as a process does that was at work two minutes ago."""
    shard_bytes = random.choice(shards_of(cache)).read_bytes()
    dead_process = start(int)
    dead_process.join()
    path = cache.path / "shards" / f"{socket.gethostname()}-{dead_process.pid}-{random.getrandbits(64):016x}.tmp"
    path.write_bytes(shard_bytes[: random.randrange(len(shard_bytes))])
    os.utime(path, (time.time() - 120,) * 2)
    return []


def empty_shard(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave a shard that got its name and not its content."""
    path = random.choice(shards_of(cache))
    os.truncate(path, 0)
    return [path]


def cut_off_shard(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave a shard of which only the beginning reached the disk."""
    return [_cut_off(random.choice(shards_of(cache)), random)]


def cut_off_rejections(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave the beginning of a list of files that are no images."""
    return [_cut_off(random.choice(rejections_of(cache)), random)]


def cut_off_spec(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave the beginning of ``spec.json``."""
    _cut_off(cache.path / "spec.json", random)
    return []


def tear_index(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave the beginning of the index."""
    _cut_off(cache.path / "index.h5", random)
    return []


def garble_index(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave anything in place of the index."""
    (cache.path / "index.h5").write_bytes(random.randbytes(random.randrange(10_000)))
    return []


def lose_index(cache: FeatureCache, random: Random) -> list[Path]:
    """Leave no index."""
    (cache.path / "index.h5").unlink()
    return []


def _cut_off(path: Path, random: Random) -> Path:
    os.truncate(path, random.randrange(path.stat().st_size))
    return path


POWER_LOSSES: dict[str, Callable[[FeatureCache, Random], list[Path]]] = {
    "an unfinished file": leave_unfinished_file,
    "a shard renamed but empty": empty_shard,
    "a shard cut off anywhere": cut_off_shard,
    "a torn index": tear_index,
    "garbage for an index": garble_index,
    "no index": lose_index,
    "rejections cut off": cut_off_rejections,
    "spec.json cut off": cut_off_spec,
}
"""What a loss of power can leave behind; each returns the files that have to be moved aside."""


def power(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Leave behind what a loss of power can leave, look at the cache, and extract some more images."""
    manifest, more_images = laboratory.manifest(160), laboratory.manifest(168)
    undamaged = laboratory.filled(laboratory.folder / "before-the-loss", manifest)
    for remains, leave_remains in POWER_LOSSES.items():
        tally = Tally(f"power loss: {remains}")
        for _ in range(times):
            extractor = copied(laboratory, undamaged)
            cache = opened(extractor)
            with tally.once_more():
                keys = {path: keys_in(path) for path in [*shards_of(cache), *rejections_of(cache)]}
                broken = leave_remains(cache, laboratory.random)
                lost_keys = {key for path in broken for key in keys[path]}
                missing = set(cache.missing(manifest.keys))
                as_promised = missing == lost_keys and has_set_aside(cache, broken)
                tally.check("what is broken is told and moved aside, the rest is there", as_promised)
                report = extract(extractor, more_images)
                to_do = (lost_keys | {*more_images.keys} - {*manifest.keys}) - extractor.unreadable().keys()
                redone = report.extracted == len(to_do) and laboratory.is_undisturbed(extractor, more_images)
                tally.check("the next extraction does what is missing, no more: undisturbed", redone)
                readable = others_can_read(extractor, more_images) and temporary_files(cache) == []
                tally.check("then the index has every row, spec.json is whole, no leftover", readable)
        yield tally


def has_set_aside(cache: FeatureCache, broken: Sequence[Path]) -> bool:
    """Return whether exactly these files were moved to ``damaged/`` and named."""
    is_moved = [path.name for path in cache.damaged] == [path.name for path in broken]
    is_named = [str(path) in note for path, note in zip(broken, cache.warnings, strict=False)]
    return (
        is_moved and all(is_named) and len(cache.warnings) == len(broken) and not any(path.exists() for path in broken)
    )


def others_can_read(extractor: Extractor, manifest: Manifest) -> bool:
    """Return whether other programs find every row in the index, and the cache is told by its spec."""
    cache, readable = opened(extractor), drop_unreadable(extractor, manifest)
    with h5py.File(cache.path / "index.h5") as index:
        row_of = {key.decode(): row for row, key in enumerate(index["keys"])}
        features = index["features"][()]
    (summary,) = list_caches(cache.root)
    return (
        len(row_of) == len(features) == len(readable)
        and features[[row_of[key] for key in readable.keys]].tobytes() == cache.read(readable.keys).tobytes()
        and summary.spec == cache.spec
    )


def copied(laboratory: Laboratory, good: Extractor) -> Extractor:
    """Return the same network with a fresh copy of a cache."""
    root = laboratory.folder / "copy"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(good.taps[0].cache.root, root)
    return laboratory.extractor(root)


# -- a flipped bit -----------------------------------------------------------------------------------------------------


def flip(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Change one bit, or several of one byte, somewhere in a shard; repair, and extract again."""
    tally = Tally("one bit or byte of a shard changed")
    manifest = laboratory.manifest(120)
    undamaged = laboratory.filled(laboratory.folder / "before-the-flip", manifest)
    readable = drop_unreadable(undamaged, manifest).keys
    expected_rows = laboratory.rows(readable)
    without_effect = 0
    for _ in range(times):
        extractor = copied(laboratory, undamaged)
        opened_before, cache = opened(extractor), opened(extractor)
        with tally.once_more():
            opened_before.refresh()
            shard = laboratory.random.choice(shards_of(cache))
            keys = keys_in(shard)
            position = position_in(shard, laboratory.random)
            array, row = place_of(shard, position)
            flip_at(shard, position, laboratory.random)
            for moment, opened_cache in (("opened before", opened_before), ("opened after it", cache)):
                tally.check(
                    f"{moment}: right bits, an error or no row",
                    serves_nothing_wrong(opened_cache, readable, expected_rows),
                )
            damages = cache.verify()
            set_aside = damages == [] and has_set_aside(cache, [shard])
            if array == "features":
                is_named = damages == [(shard.name, row, keys[row], 0)] and cache.warnings == []
                tally.check("in a row: verify names shard, row and key", is_named)
            elif array:
                tally.check("in keys, views or checksums: verify names the shard", set_aside)
            else:
                unharmed = not (damages or cache.warnings or cache.missing(manifest.keys))
                without_effect += unharmed
                tally.check("elsewhere: verify names the shard, or all is right", set_aside or unharmed)
            cache.repair()
            extract_in_small_shards(extractor, manifest)
            tally.check("repaired and extracted: undisturbed", laboratory.is_undisturbed(extractor, manifest))
    tally.notes.append(f"{without_effect} times it was a byte that nothing depends on, between the arrays of the file")
    yield tally


def position_in(shard: Path, random: Random) -> int:
    """Return a position anywhere in a shard, or, half of the time, in one of its arrays: three of them are small."""
    if random.random() < 0.5:
        return random.randrange(shard.stat().st_size)
    with h5py.File(shard) as file:
        array = file[random.choice(sorted(file))]
        return int(array.id.get_offset()) + random.randrange(array.nbytes)


def place_of(shard: Path, position: int) -> tuple[str, int]:
    """Return the name of the array, and the row in it, that stand at a position of a shard; ``""`` if none does."""
    with h5py.File(shard) as file:
        for name, array in file.items():
            offset = position - array.id.get_offset()
            if 0 <= offset < array.nbytes:
                return name, offset * len(array) // array.nbytes
    return "", 0


def flip_at(path: Path, position: int, random: Random) -> None:
    """Change one bit, or one to eight bits, of one byte."""
    mask = random.choice((1 << random.randrange(8), random.randrange(1, 256)))
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ mask]))


def serves_nothing_wrong(cache: FeatureCache, keys: Sequence[str], right: NDArray[Any]) -> bool:
    """Read key by key, and all that can be read at once: whatever comes has to be right."""
    missing = set(cache.missing(keys))
    served = []
    for number in [number for number, key in enumerate(keys) if key not in missing]:
        try:
            row = cache.read([keys[number]])
        except CacheError:
            continue
        if row.tobytes() != right[number].tobytes():
            return False
        served.append(number)
    return cache.read([keys[number] for number in served]).tobytes() == right[served].tobytes()


# -- a full disk -------------------------------------------------------------------------------------------------------


def full(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Let a process run out of room: files that may not get longer, a small disk, and the command itself."""
    manifest = laboratory.manifest(300)
    yield limited_files(laboratory, manifest, times)
    yield small_disk(laboratory, manifest, times)
    yield command_without_room(laboratory, max(1, times // 10))


def limited_files(laboratory: Laboratory, manifest: Manifest, times: int) -> Tally:
    """Extract where no file may get as long as a shard, into a cache that holds some images already."""
    tally = Tally("disk full: a limit to the size of files")
    for number in range(times):
        with tally.once_more():
            subset = manifest.select(range(laboratory.random.randrange(1, 100)))
            extractor = laboratory.filled(laboratory.folder / f"limited-{number}", subset)
            limit = laboratory.random.choice((0, laboratory.random.randrange(40_000)))
            check_without_room(tally, extractor, manifest, limit)
            check_with_room(tally, laboratory, extractor, manifest)
    return tally


def small_disk(laboratory: Laboratory, manifest: Manifest, times: int) -> Tally:
    """Extract onto a disk that is too small, then onto one without a free byte; then make it larger."""
    tally = Tally("disk full: a small file system")
    disk = laboratory.folder / "disk"
    for _ in range(times):
        if not mount(disk, f"size={laboratory.random.randrange(64, 512)}k"):
            tally.notes.append("not tried: this user may not mount a file system")
            break
        try:
            with tally.once_more():
                extractor = laboratory.extractor(disk / "cache")
                check_without_room(tally, extractor, manifest)
                fill_up(disk)
                check_without_room(tally, extractor, manifest)
                mount(disk, "remount,size=64m")
                check_with_room(tally, laboratory, extractor, manifest)
        finally:
            subprocess.run(["umount", disk], check=True)
    return tally


def command_without_room(laboratory: Laboratory, times: int) -> Tally:
    """Give the command a limit to the size of files, and give it again without."""
    tally = Tally("disk full: the command `extract`")
    manifest = load_manifest(DataConfig(str(laboratory.photographs)))
    for number in range(times):
        extractor = laboratory.extractor(laboratory.folder / f"command-{number}")
        limit = laboratory.random.randrange(200_000)
        options = {"data": laboratory.photographs, "image-size": IMAGE_SIZE, "cache": extractor.taps[0].cache.root}
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline", "extract", *(f"--{name}={value}" for name, value in options.items())],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        )
        with tally.once_more():
            in_words = tells_what_to_do(ended.stderr) and "Traceback" not in ended.stderr
            tally.check("it ends with status 1, and says what is wrong", ended.returncode == 1 and in_words)
            check_with_room(tally, laboratory, extractor, manifest)
    return tally


def check_without_room(tally: Tally, extractor: Extractor, manifest: Manifest, limit: int | None = None) -> None:
    """Extract in a process that runs out of room, and look at the cache then."""
    keys_before = set(opened(extractor).keys())
    receiver, sender = FORK.Pipe(duplex=False)
    process = start(extract_as_the_command, extractor, manifest, limit, sender)
    process.join()
    message = receiver.recv() if receiver.poll() else ""
    tally.check("it ends with status 1, and says what is wrong", process.exitcode == 1 and tells_what_to_do(message))
    later = opened(extractor)
    tally.check(
        "no row that was there is gone, and nothing is broken", keys_before <= set(later.keys()) and is_sound(later)
    )
    tally.check("no unfinished file is left", temporary_files(later) == [])


def check_with_room(tally: Tally, laboratory: Laboratory, extractor: Extractor, manifest: Manifest) -> None:
    """Extract where there is room again."""
    extract_in_small_shards(extractor, manifest)
    tally.check("with room again it goes on: undisturbed", laboratory.is_undisturbed(extractor, manifest))


def extract_as_the_command(extractor: Extractor, manifest: Manifest, limit: int | None, sender: Connection) -> None:
    """Extract, and turn an error into a message and a status; no file may get longer than the limit."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        extract_in_small_shards(extractor, manifest)
    except CacheError as error:
        sender.send(str(error))
        sys.exit(error.exit_code)


def tells_what_to_do(message: str) -> bool:
    """Return whether a message tells that the disk is full, how much was needed, and what to do."""
    return all(phrase in message for phrase in ("no room for", "bytes needed", "make room"))


def is_sound(cache: FeatureCache) -> bool:
    """Return whether there is no damage."""
    return not (cache.verify() or cache.warnings or cache.damaged)


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory, or give it another size; return whether that is allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def fill_up(folder: Path) -> None:
    """Write a file until not one byte more fits onto the disk."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


# -- many at once ------------------------------------------------------------------------------------------------------


def together(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Let processes extract the same images into one cache at once; in half of the rounds, kill one."""
    manifest = laboratory.manifest(800)
    readable = len(drop_unreadable(laboratory.filled(laboratory.folder / "alone", manifest), manifest))
    for count in (2, 8):
        for killed in (0, 1):
            tally = Tally(f"{count} processes at once{', one of them killed' if killed else ''}")
            for number in range(times):
                with tally.once_more():
                    extractor = laboratory.extractor(laboratory.folder / f"together-{count}-{killed}-{number}")
                    reports = extract_together(laboratory, extractor, manifest, count, killed)
                    complete = [
                        report.extracted + report.extracted_by_others + report.hits == readable for report in reports
                    ]
                    tally.check("the others end when all is done", complete == [True] * (count - killed))
                    tally.check("each of them did something", all(report.extracted for report in reports))
                    if not killed:
                        extracted = sum(report.extracted for report in reports)
                        tally.check("no image went through the network twice", extracted == readable)
                    tally.check("undisturbed", laboratory.is_undisturbed(extractor, manifest))
                    tally.check("nothing of dead processes is left", is_tidy(opened(extractor)))
            yield tally


def extract_together(
    laboratory: Laboratory, extractor: Extractor, manifest: Manifest, count: int, killed: int
) -> list[Extraction]:
    """Extract in so many processes, and kill the first few of them; return the reports of the others."""
    barrier = FORK.Barrier(count)
    pipes = [FORK.Pipe(duplex=False) for _ in range(count)]
    running = [start(extract_and_report, extractor, manifest, barrier, sender) for _, sender in pipes]
    for process in running[:killed]:
        shards_before_kill = laboratory.random.randrange(1, len(manifest) // 32)
        while process.is_alive() and len(shards_of(extractor.taps[0].cache)) < shards_before_kill:
            time.sleep(0.001)
        is_killed(process, 0)
    for process in running:
        process.join()
    return [receiver.recv() for receiver, _ in pipes[killed:] if receiver.poll()]


def extract_and_report(extractor: Extractor, manifest: Manifest, ready: Any, sender: Connection) -> None:
    """Extract as soon as all processes are ready."""
    ready.wait()
    sender.send(extract_in_small_shards(extractor, manifest))


# -- killed while shards are rewritten ---------------------------------------------------------------------------------


def rewrite(laboratory: Laboratory, times: int) -> Iterator[Tally]:
    """Kill what rewrites shards, ``cache prune`` and ``cache verify --repair``; give the same command again."""
    manifest = laboratory.manifest(300)
    undamaged = laboratory.filled(laboratory.folder / "before-rewriting", manifest)
    readable = drop_unreadable(undamaged, manifest).keys
    yield killed_prune(laboratory, undamaged, readable, times)
    yield killed_repair(laboratory, undamaged, manifest, readable, times)


def killed_prune(laboratory: Laboratory, good: Extractor, keys: Sequence[str], times: int) -> Tally:
    """Kill a prune that keeps a random part of the images."""
    tally = Tally("kill -9 while pruning")
    longest = seconds_of(opened(copied(laboratory, good)).prune, keys[::2])
    halfway = 0
    while tally.times < times:
        cache = opened(copied(laboratory, good))
        shards_before = shards_of(cache)
        needed = laboratory.random.sample(keys, laboratory.random.randrange(1, len(keys)))
        process = start(cache.prune, needed)
        if is_killed(process, laboratory.random.uniform(0, longest)):
            with tally.once_more():
                halfway += shards_of(cache) != shards_before
                tally.check("no row that is needed is gone", cache.missing(needed) == [])
                tally.check("every row has the right bits", laboratory.is_right(cache, cache.keys()))
                tally.check("nothing is broken", is_sound(cache))
                cache.prune(needed)
                tally.check("pruned again: what is needed, and no more", set(cache.keys()) == set(needed))
    tally.notes.append(f"{halfway} of the kills came when shards had changed already")
    return tally


def killed_repair(
    laboratory: Laboratory, good: Extractor, manifest: Manifest, keys: Sequence[str], times: int
) -> Tally:
    """Kill the repair of several shards, each with a damaged row."""
    tally = Tally("kill -9 while repairing")
    longest = seconds_of(damaged_copy(laboratory, good)[0].repair)
    halfway = 0
    while tally.times < times:
        cache, damaged = damaged_copy(laboratory, good)
        shards_before = shards_of(cache)
        process = start(cache.repair)
        if is_killed(process, laboratory.random.uniform(0, longest)):
            with tally.once_more():
                halfway += shards_of(cache) != shards_before
                sound = [key for key in keys if key not in damaged]
                tally.check("no sound row is gone", cache.missing(sound) == [])
                tally.check("every sound row has the right bits", laboratory.is_right(cache, sound))
                cache.repair()
                extract(laboratory.extractor(cache.root), manifest)
                healed = laboratory.is_right(cache, keys) and cache.verify() == []
                tally.check("repaired and extracted again: right bits, no damage", healed)
    tally.notes.append(f"{halfway} of the kills came when shards had changed already")
    return tally


def damaged_copy(laboratory: Laboratory, good: Extractor) -> tuple[FeatureCache, set[str]]:
    """Return a fresh copy of a cache in which a row of some shards is damaged, and the keys of these rows."""
    cache = opened(copied(laboratory, good))
    damaged = set()
    for shard in laboratory.random.sample(shards_of(cache), 6):
        keys = keys_in(shard)
        with h5py.File(shard) as file:
            offset, size = file["features"].id.get_offset(), file["features"].nbytes
        row = laboratory.random.randrange(len(keys))
        flip_at(shard, offset + row * size // len(keys), laboratory.random)
        damaged.add(keys[row])
    return cache, damaged


FAULTS: dict[str, tuple[Callable[[Laboratory, int], Iterator[Tally]], int]] = {
    "kill": (kill, 200),
    "power": (power, 25),
    "flip": (flip, 400),
    "full": (full, 30),
    "together": (together, 5),
    "rewrite": (rewrite, 50),
}
"""What is tried, and how often each fault of it is made."""


def main() -> int:
    """Make the faults that are asked for, and return 1 if anything did not hold, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of the extraction (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="faults (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and places (default: %(default)s)")
    options = parser.parse_args()
    tallies = []
    with tempfile.TemporaryDirectory(prefix="cutonce-faults-") as folder:
        laboratory = Laboratory(Path(folder))
        for name in options.only:
            fault, times = FAULTS[name]
            laboratory.random.seed(f"{options.seed} {name}")
            for tally in fault(laboratory, options.kills if name == "kill" else times):
                print(f"{tally.fault}: {tally.times} times", file=sys.stderr, flush=True)
                tallies.append(tally)
    rows = [row for tally in tallies for row in tally.rows]
    echo(table(["fault (how often)", "what must hold", "looked at", "held"], rows, left=2))
    echo("", *(f"{tally.fault}: {note}." for tally in tallies for note in tally.notes))
    echo("Undisturbed: the images and bits of a run that nobody disturbed, no row twice, and verify finds no damage.")
    return 0 if all(tally.held for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())

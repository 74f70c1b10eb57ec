"""What holds the interpreter's lock where a GPU computes: files that are read, images it does not decode, views.

::

    python benchmarks/interpreter.py          # half a minute, on any machine

Threads of one process share that lock: what an image holds it for says how many a second there can be, on any number of
cores. Given is processor time of one thread, medians of the turns: all of it, and what is left of it without decoding,
laying on white, rendering and numpy's search for markers, which let go of the lock. Reading does too, but is in both.

A second table says what as many threads as there could be on a machine of more cores would decode: threads that really
share this interpreter's lock, hold it as long as was measured, and sleep for what is computed without it. Memory and
caches that cores share are not in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import torch
from PIL import Image, ImageFile

from benchmarks.photographs import make_photographs
from pipeline.cli.output import echo
from pipeline.text import table
from stages.data.augment.policy import augmentation
from stages.data.encoded_files import read_encoded
from stages.data.images import codecs, jpeg_structure
from stages.data.images.preprocessing import Preprocessing
from stages.data.sources.open_image import read_image

PREPROCESSING = Preprocessing(224, 256)
WIDTH, HEIGHT = 500, 375
OTHERS = {"PNG": ("png", "RGB"), "WebP": ("webp", "RGB"), "transparent PNG": ("png", "RGBA")}
"""What a GPU does not decode -> ending and mode."""
VIEWS = ("light", "medium", "strong")
THREADS = (4, 8, 12, 16)
PIECES = 5  # in which an image's work takes the lock and lets go of it


class LockFree:
    """The processor time of this thread in what lets go of the lock.

    Attributes
    ----------
    seconds : float
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, take the time of what lets go: decoders, Pillow's pixels, rendering, numpy's search for markers."""
        from torchcodec.decoders import _image_decoders as decoders

        with ExitStack() as stack:
            for owner, name in (
                *((decoders, f"_decode_{kind}") for kind in ("jpeg", "png", "webp")),
                (ImageFile.ImageFile, "load"),
                *((Image.Image, kind) for kind in ("convert", "paste")),
                (Preprocessing, "render"),
                (jpeg_structure, "_markers"),
            ):
                stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name))))
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - started

        return call


def times_of(work: Callable[[], None], count: int, turns: int) -> tuple[float, float]:
    """Return the milliseconds of a thread for one of `count` things, and those of it that may hold the lock."""
    found: list[tuple[float, float]] = []
    work()
    for _ in range(turns):
        free = LockFree()
        with free.watched():
            started = time.thread_time()
            work()
            seconds = time.thread_time() - started
        found.append((1000 * seconds / count, 1000 * (seconds - free.seconds) / count))
    every, held = zip(*found, strict=True)
    return statistics.median(every), statistics.median(held)


def images_a_second(free: float, held: float, threads: int, seconds: float) -> float:
    """Return how many images threads finish on cores enough, of so many seconds without the lock and with it."""
    rounds = 200_000
    started = time.perf_counter()
    _hold(rounds)
    held_rounds = round(rounds * held / PIECES / (time.perf_counter() - started))
    late = _oversleeping(free / PIECES)
    begun = time.perf_counter()

    def decode() -> int:
        done = 0
        while time.perf_counter() < begun + seconds:
            for _ in range(PIECES):
                time.sleep(max(free / PIECES - late, 0))
                _hold(held_rounds)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(decode) for _ in range(threads)]
    done = sum(count.result() for count in counts)
    return done / (time.perf_counter() - begun)


def _hold(rounds: int) -> None:
    for _ in range(rounds):
        pass


def _oversleeping(seconds: float) -> float:
    """Return how much longer than `seconds` a thread sleeps."""
    slept = []
    for _ in range(50):
        started = time.perf_counter()
        time.sleep(seconds)
        slept.append(time.perf_counter() - started - seconds)
    return statistics.median(slept)


def converted(jpegs: Sequence[Path], ending: str, mode: str) -> list[str]:
    """Write photographs in another format, beside them; return where they are."""
    paths = []
    for number, jpeg in enumerate(jpegs):
        path = jpeg.parent / f"{mode}-{number}.{ending}"
        with Image.open(jpeg) as image:
            image.convert(mode).save(path, **({"quality": 90} if ending == "webp" else {}))
        paths.append(str(path))
    return paths


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="few images, once: to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if codecs.torchcodec_decoders() is None:
        raise SystemExit(f"TorchCodec does not load here: {codecs.INSTALL}")
    count, turns = (4, 1) if options.quick else (64, options.turns)
    rows: list[list[str]] = []
    decoded: list[list[str]] = []

    def measured(what: str, work: Callable[[], None], number: int) -> tuple[float, float]:
        every, held = times_of(work, number, turns)
        rows.append([what, f"{every:.3f}", f"{held:.3f}", f"{1000 / held:,.0f}"])
        return (every - held) / 1000, held / 1000

    with tempfile.TemporaryDirectory() as name:
        make_photographs(count, WIDTH, HEIGHT, Path(name))
        jpegs = sorted(Path(name).rglob("*.jpg"))
        many = [str(path) for path in jpegs] * max(256 // count, 1)  # as many as are read at once
        measured("a JPEG, read for the GPU", lambda: read_encoded(many), len(many))
        for kind, form in OTHERS.items():
            paths = converted(jpegs[:16], *form)

            def rendered(paths: list[str] = paths) -> None:
                for path in paths:
                    PREPROCESSING.render(read_image(path))

            free, held = measured(f"a {kind}, read, decoded and rendered", rendered, len(paths))
            seconds = 0.05 if options.quick else 2.0
            decoded.append([kind, *(f"{images_a_second(free, held, threads, seconds):,.0f}" for threads in THREADS)])
    for preset in VIEWS:
        policy = augmentation(preset, PREPROCESSING)

        def planned(policy: Any = policy) -> None:
            for seed in range(count):
                policy.plan(HEIGHT, WIDTH, seed)

        measured(f"a view planned, {preset}", planned, count)
    echo(table(["what", "ms", "of it under the lock, at most", "so many a second, at most"], rows, 1))
    echo("", table(["images a second by", *(f"{threads} threads" for threads in THREADS)], decoded, 1))


if __name__ == "__main__":
    main()

"""The images that are measured with: folders of class folders, ``ROOT/CLASS/IMAGE``, which every side can read.

ELPV are grey PNG files of 300 x 300 pixels. The photographs are cut from the two that come with scikit-learn, mirrored
at their edges and nearly at their own scale, so that they have the spectrum, and take the decoding time, of
photographs; noise or flat colours would not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

SIZES = {"small": (500, 375), "large": (1500, 1000), "huge": (4000, 3000)}
"""Width and height, in pixels, of the photographs by name."""

_MIXED = (320, 800)
"""Shortest and longest side of photographs of mixed sizes."""


def make(kind: str, count: int, folder: str) -> None:
    """Make a folder of `count` images: ``elpv``, or one of `SIZES`."""
    if kind == "elpv":
        make_elpv({"": count}, folder)
    else:
        make_photographs(count, *SIZES[kind], Path(folder))


def make_many(kind: str, count: int, folder: str, different: int) -> None:
    """Make a folder of `count` JPEG photographs in little time: `different` ones, and copies with another comment.

    Every file has bytes of its own, which is what a cache knows an image by, so that all are computed; to decode a copy
    takes what its original takes.

    Parameters
    ----------
    kind
        One of `SIZES`, or ``mixed``: sizes drawn at random.
    """
    random = np.random.default_rng(1)
    drawn = iter(lambda: tuple(random.integers(*_MIXED, 2, endpoint=True).tolist()), None)
    make_photographs_of_sizes(different, drawn if kind == "mixed" else repeat(SIZES[kind]), Path(folder))
    originals = _by_name(folder)
    for index in range(different, count):
        original = originals[index % different]
        (original.parent / f"{index:05}.jpg").write_bytes(_with_comment(original.read_bytes(), str(index)))


def take(images: str, count: int, folder: str) -> None:
    """Make a folder of the first `count` images of another one, which `make_many` made."""
    for original in _by_name(images)[:count]:
        copy = Path(folder) / original.parent.name / original.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)


def make_others(images: str, count: int, folder: str) -> None:
    """Make a folder of `count` images that another one, made by `make_many`, has not, of the same kind."""
    for original in _by_name(images)[:count]:
        copy = Path(folder) / original.parent.name / original.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(_with_comment(original.read_bytes(), "another"))


def _by_name(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.jpg"), key=lambda path: path.name)


def _with_comment(data: bytes, comment: str) -> bytes:
    """Return a JPEG file with a comment, behind its start-of-image marker."""
    text = comment.encode()
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


def make_elpv(counts: dict[str, int], folder: str) -> None:
    """Copy a random choice of ELPV, the same for the same counts, into a folder for each name (split) and class."""
    from stages.config.data import DataConfig
    from stages.data.sources.elpv import list_elpv  # slow to import, and needed by this set alone

    listing = list_elpv(DataConfig("elpv"))
    order = np.random.default_rng(0).permutation(len(listing.locations)).tolist()
    for split, count in counts.items():
        chosen_indices, order = order[:count], order[count:]
        for index in chosen_indices:
            class_dir = Path(folder) / split / listing.targets[index]
            class_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(listing.locations[index], class_dir)


def make_photographs(count: int, width: int, height: int, folder: Path) -> None:
    """Write JPEG photographs of one size and of quality 90, a class for each of the two originals.

    No two have the same pixels: of two that had, a cache that knows images by their pixels would compute only one.
    """
    make_photographs_of_sizes(count, repeat((width, height)), folder)


def make_photographs_of_sizes(count: int, sizes: Iterator[tuple[int, int]], folder: Path) -> None:
    """Write JPEG photographs as `make_photographs` does, of the next sizes (width and height)."""
    originals = load_sample_images()
    names = [Path(name).stem for name in originals.filenames]
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    photographs = _photographs(originals.images, sizes)
    for index in range(count):
        next(photographs).save(folder / names[index % len(names)] / f"{index:05}.jpg", quality=90)


def _photographs(originals: Sequence[NDArray[np.uint8]], sizes: Iterator[tuple[int, int]]) -> Iterator[Image.Image]:
    """Yield different photographs of the next sizes, of each original in turn, without end."""
    random = np.random.default_rng(0)
    tiles = [_mirrored(original) for original in originals]
    while True:
        for tile in tiles:
            width, height = next(sizes)
            scale = random.uniform(0.9, 1.15)
            top, left = random.integers(tile.shape[:2])
            rows, columns = top + np.arange(height / scale), left + np.arange(width / scale)
            part = tile.take(rows.astype(int), axis=0, mode="wrap").take(columns.astype(int), axis=1, mode="wrap")
            yield Image.fromarray(part).resize((width, height), Image.Resampling.BICUBIC)


def _mirrored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image and its reflections as one that can be repeated without edges, [2 H, 2 W, 3]."""
    mirrored = np.concatenate([image, image[:, ::-1]], axis=1)
    return np.concatenate([mirrored, mirrored[::-1]], axis=0)

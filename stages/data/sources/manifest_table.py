"""What a manifest says beside its own table: all images of samples of several, and which classes masks hold.

A manifest has a row for each sample, at its first image, and the place of a mask as its label; where it is read as a
table of samples, the rest comes along.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from cache.atomic_write import atomic_path
from cache.errors import DataError
from stages.data.masks.mask_classes import MaskClasses
from stages.data.sample import ImageRef
from stages.data.sources.sample_images import Views, key_of_sample
from stages.tasks.tiles import split_name

KEY, TARGET_KEY = "key", "target_key"
"""The columns of digests: of images, and of masks, which only a manifest of masks has."""

_ENDING = ".images.csv"
_HEADER = ["sample", "place", "path", "key"]


def save_images(manifest: Path, images: Sequence[Sequence[ImageRef | None]]) -> None:
    """Write the images of samples beside their manifest: the sample's number, the image's place in it, path and key."""
    with (
        atomic_path(manifest.with_suffix(_ENDING)) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(_HEADER)
        for number, views in enumerate(images):
            rows.writerows((number, place, *astuple(image)) for place, image in enumerate(views) if image is not None)


def load_images(manifest: Path, sizes: Sequence[int]) -> list[tuple[ImageRef | None, ...]]:
    """Return what `save_images` wrote, of samples that have so many places each.

    Raises
    ------
    OSError, ValueError, IndexError
        If it is not there, or something else.
    """
    header, rows = _read(manifest)
    if header != _HEADER:
        raise ValueError(
            f"the columns of {manifest.with_suffix(_ENDING).name} are {','.join(header)}, not {','.join(_HEADER)}"
        )
    return _images_of(rows, sizes)


def _images_of(rows: Sequence[Sequence[str]], sizes: Sequence[int]) -> list[tuple[ImageRef | None, ...]]:
    images: list[list[ImageRef | None]] = [[None] * size for size in sizes]
    for number, place, location, key in rows:
        images[int(number)][int(place)] = ImageRef(location, key)
    if lacking := [number for number, views in enumerate(images) if not any(views)]:
        raise ValueError(f"{len(lacking):,} samples have no image there, number {lacking[0]} among them")
    return [tuple(views) for views in images]


def saved_samples(table: Path) -> dict[str, Views]:
    """Return where the images of the samples of a manifest are, by the keys of the samples; nothing of other tables.

    By the keys, and not by the number of its row: rows of the table may have been taken out, or put elsewhere.

    Raises
    ------
    DataError
        If they stand in such a table, and cannot be read.
    """
    if not table.with_suffix(_ENDING).is_file():
        return {}
    try:
        header, rows = _read(table)
        if header != _HEADER:
            return {}
        images = _images_of(rows, json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["images"])
    except OSError as error:
        raise DataError(f"{table} has samples of several images: {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise DataError(f"{table.with_suffix(_ENDING)} is not what was written beside {table.name}: {error}") from error
    return {
        key_of_sample(views): tuple([None if image is None else image.location for image in views]) for views in images
    }


def labels_are_masks(columns: Iterable[str]) -> bool:
    """Return whether these are the columns of a manifest whose labels are the places of masks."""
    return {KEY, TARGET_KEY}.issubset(columns)


def whole_of(location: str) -> str:
    """Return the image or mask that a tile was cut from; what is no tile is whole.

    Tiles are cut anew by the options of whoever reads the manifest, who may ask for others or none.
    """
    found = split_name(location)
    return found[0] if found else location


def saved_mask_classes(table: Path) -> MaskClasses | None:
    """Return which classes the masks of a manifest hold; None where that stands nowhere.

    Raises
    ------
    DataError
        If the file that says it cannot be read.
    """
    path = table.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        return MaskClasses.from_json(json.loads(path.read_text(encoding="utf-8"))["mask_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say which classes the masks of {table.name} hold: {error}") from error


def _read(manifest: Path) -> tuple[list[str], list[list[str]]]:
    with manifest.with_suffix(_ENDING).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    return rows[0] if rows else [], rows[1:]

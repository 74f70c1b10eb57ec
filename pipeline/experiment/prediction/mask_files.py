"""Predicted masks on disk: index PNGs with a palette, overlays on their images, probabilities, names of the classes."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.atomic_write import atomic_path, write_atomically
from cache.errors import UsageError, listed
from stages.data.masks.mask_colors import Color, class_colors, overlay

CLASSES = "classes.csv"
"""The file of the names and colors of the classes, in the order of their numbers."""

PREDICTED = "predicted.json"
"""The file that says of a folder that a prediction wrote it, and another one may replace what is in it."""


def require_own_folder(folder: Path) -> None:
    """Refuse a folder that holds what no prediction wrote: masks of the same names, made by a person, would be lost.

    Raises
    ------
    UsageError
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and PREDICTED not in names:
        raise UsageError(
            f"masks would go to {folder}, which holds what no prediction wrote ({listed(names, 3)}): name a new or "
            "empty folder with `masks`"
        )


def save_mark(folder: Path) -> None:
    """Write the file that says of a folder that a prediction wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PREDICTED, b'{"encoding-type": "predicted-masks", "encoding-version": 1}\n')


def save_index_mask(path: Path, mask: NDArray[np.uint8], colors: Sequence[Color]) -> None:
    """Write a mask, uint8 [H, W], as a PNG whose pixels are the numbers of the classes, shown in their colors."""
    image = Image.fromarray(mask)
    # beyond the classes VOC's own, so that void is seen and no two numbers look alike
    every_color = [*colors, *class_colors(256)[len(colors) :]]
    image.putpalette([level for color in every_color for level in color])
    _save(image, path, "PNG", optimize=True)


def save_overlay(path: Path, pixels: NDArray[np.uint8], mask: NDArray[np.uint8], colors: Sequence[Color]) -> None:
    """Write an image, uint8 [H, W, 3], with the colors of its mask on it, as a JPEG to be looked at."""
    _save(Image.fromarray(overlay(pixels, mask, colors)), path, "JPEG", quality=90)


def save_probabilities(path: Path, probabilities: NDArray[np.float16], names: Sequence[str]) -> None:
    """Write the probability of every class of every pixel, float16 [C, H, W], as a NumPy archive with the names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, class_names=np.array(names))


def save_classes(path: Path, names: Sequence[str], colors: Sequence[Color]) -> None:
    """Write names and colors of the classes, a row for each, in the order of their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "r", "g", "b"])
        rows.writerows([name, *color] for name, color in zip(names, colors, strict=True))


def output_names(locations: Sequence[str]) -> list[str]:
    """Return a name without an ending for what is made of each of these images, no two alike.

    They are the paths below the folder that all have in common; of two images that differ in their ending alone, or
    are one and the same, the later ones keep the ending and get a number.
    """
    paths = [Path(location).absolute() for location in locations]
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    taken: set[Path] = set()
    names = []
    for path in paths:
        below = path.parent.relative_to(common)
        numbered = (f"{path.name}.{number}" for number in range(2, len(paths) + 2))
        name = next(name for name in (below / file for file in (path.stem, path.name, *numbered)) if name not in taken)
        taken.add(name)
        names.append(str(name))
    return names


def _save(image: Image.Image, path: Path, kind: str, **options: int | bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        image.save(temporary, format=kind, **options)

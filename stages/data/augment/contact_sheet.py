"""The sheet on which a person judges an augmentation: photographs as they are beside what the network sees of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache.atomic_write import atomic_path, write_atomically
from stages.data.augment.contact_sheet_svg import Cell, Sheet, sheet_as_svg
from stages.data.augment.mixup import MixupCutmix
from stages.data.augment.policy import Augmentation
from stages.data.images.rgb import as_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMN, _ROW, _SIDE = 1.35, 1.45, 1.25
"""Inches: of a cell, with room for the words below a picture, and of the longer side of the picture in it."""

_MIXTURES = 2
"""Batches that are shown of mixup, and of cutmix."""

_SEED = 3
"""Of the mixtures: one whose draws are, for any alpha, not all so near 0 or 1 that there is nothing to see."""


def contact_sheet(
    images: Sequence[Tensor],
    augment: Augmentation,
    seeds: Sequence[int],
    path: Path,
    title: str,
    mixing: MixupCutmix | None = None,
) -> None:
    """Write a sheet with a row for each photograph: as it is, its evaluation view, then one rendering per seed.

    A name that ends in ``.svg`` makes an SVG file that follows the light or dark scheme of who looks at it, and each of
    whose pictures is small; any other a picture on white, a PNG file by default.

    Of more than three channels the first three are shown, of two the first.

    Each row draws its own random numbers from the seeds, as each image does in training. With `mixing`, the last
    columns show these very renderings mixed, each with the one above it, and in which shares.

    Parameters
    ----------
    images : sequence of Tensor
        Photographs, uint8 [3, H, W].
    mixing : MixupCutmix, optional
        Its layout plays no part.
    """
    renderings = [[augment(image, seed * len(images) + row) for row, image in enumerate(images)] for seed in seeds]
    mixtures = list(_mixtures(renderings, mixing)) if mixing is not None else []
    names = ["photograph", "evaluation view", *(f"rendering {number}" for number in range(1, len(seeds) + 1))]
    cells = []
    for row, image in enumerate(images):
        image_height, image_width = image.shape[-2:]
        cells.append(Cell(row, 0, augment.preprocessing.resized(image), f"{image_width} × {image_height}"))
        cells.append(Cell(row, 1, augment.preprocessing.render(image)))
        cells += [Cell(row, column, of_seed[row]) for column, of_seed in enumerate(renderings, start=2)]
        for column, (_, mixed, shares) in enumerate(mixtures, start=len(names)):
            cells.append(Cell(row, column, mixed[row], f"{shares[row]:.0%} + {1 - shares[row]:.0%}"))
    description = "; ".join([*augment.describe(), *(_words(mixing) if mixing is not None else [])])
    sheet = Sheet(
        title, description, (*names, *(name for name, _, _ in mixtures)), len(names), len(images), tuple(cells)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        write_atomically(path, sheet_as_svg(sheet).encode("utf-8"))
    else:
        _draw(sheet, path)


def _draw(sheet: Sheet, path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import, and needed by this sheet alone

    gap = 0.15 * _COLUMN if len(sheet.names) > sheet.apart_from else 0.0
    width = _COLUMN * len(sheet.names) + gap
    heading = [sheet.title, *textwrap.wrap(sheet.description, width=round(12.6 * width))]
    height = _ROW * sheet.rows + 0.17 * len(heading) + 0.4
    figure = Figure(figsize=(width, height), dpi=130)
    figure.text(0.5, 1 - 0.06 / height, "\n".join(heading), ha="center", va="top", fontsize=10)
    # One set of axes for all, in inches: to make, place and draw one for each picture takes seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()

    def center(column: int) -> float:
        return _COLUMN * (column + 0.5) + (gap if column >= sheet.apart_from else 0.0)

    for cell in sheet.cells:
        _show(axes, cell.pixels, center(cell.column), _ROW * (sheet.rows - cell.row) - _SIDE / 2, cell.caption)
    for column, name in enumerate(sheet.names):
        axes.text(center(column), _ROW * sheet.rows + 0.05, name, ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, width), ylim=(0, height))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _mixtures(renderings: Sequence[Sequence[Tensor]], mixing: MixupCutmix) -> Iterator[tuple[str, Tensor, list[float]]]:
    """Yield some batches of either kind of mixture: its name, uint8 [b, 3, S, S], and the share each row keeps."""
    for kind, other in (("mixup", "cutmix"), ("cutmix", "mixup")):
        if not getattr(mixing, kind):
            continue
        for number, batch in enumerate(renderings[:_MIXTURES], start=1):
            targets = torch.eye(len(batch))
            single_mixing = replace(mixing, **{other: 0.0}, layout="nchw")
            mixed, shares = single_mixing(torch.stack(list(batch)).float(), targets, _SEED, epoch=number, step=0)
            yield f"{kind} of {number}", mixed.round().to(torch.uint8), shares.diagonal().tolist()


def _words(mixing: MixupCutmix) -> list[str]:
    """Return what is mixed, in words."""
    kinds = (("mixup", mixing.mixup), ("cutmix", mixing.cutmix))
    descriptions = [f"{name}, alpha {alpha:g}" for name, alpha in kinds if alpha]
    return [f"{' or '.join(descriptions)}: each with the one above it, the first with the last, in the shares below"]


def _show(axes: Axes, pixels: Tensor, x: float, y: float, caption: str) -> None:
    """Show a picture, whole, in the middle of its cell."""
    height, width = pixels.shape[-2:]
    aside, above = (_SIDE / 2 * side / max(height, width) for side in (width, height))
    extent = (x - aside, x + aside, y - above, y + above)
    axes.imshow(as_colors(pixels).permute(1, 2, 0).numpy(), interpolation="none", aspect="auto", extent=extent)
    axes.text(x, y - above - 0.03, caption, ha="center", va="top", fontsize=8)

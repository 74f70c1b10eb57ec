"""The sheet on which a person judges an augmentation: photographs as they are beside what the network sees of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache.atomic_write import atomic_path
from stages.data.augment.mixup import MixupCutmix
from stages.data.augment.policy import Augmentation
from stages.data.images.rgb import as_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    """Write a PNG with a row for each photograph: as it is, its evaluation view, then one rendering per seed.

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
    from matplotlib.figure import Figure  # slow to import, and needed by this sheet alone

    renderings = [[augment(image, seed * len(images) + row) for row, image in enumerate(images)] for seed in seeds]
    mixtures = list(_mixtures(renderings, mixing)) if mixing is not None else []
    names = ["photograph", "evaluation view", *(f"rendering {number}" for number in range(1, len(seeds) + 1))]
    gap = [0.15] if mixtures else []
    widths = [*[1.0] * len(names), *gap, *[1.0] * len(mixtures)]
    figure = Figure(figsize=(1.35 * sum(widths), 1.45 * len(images) + 1.2), dpi=130, layout="constrained")
    description = "; ".join([*augment.describe(), *(_words(mixing) if mixing is not None else [])])
    figure.suptitle(f"{title}\n{textwrap.fill(description, width=round(17 * sum(widths)))}", fontsize=10)
    grid = figure.subplots(len(images), len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, image in enumerate(images):
        height, width = image.shape[-2:]
        _show(grid[row, 0], augment.preprocessing.resized(image), f"{width} × {height}")
        _show(grid[row, 1], augment.preprocessing.render(image))
    for column, seed_renderings in enumerate(renderings, start=2):
        for axes, rendering in zip(grid[:, column], seed_renderings, strict=True):
            _show(axes, rendering)
    for column, (name, mixed, shares) in enumerate(mixtures, start=len(names) + len(gap)):
        grid[0, column].set_title(name, fontsize=9)
        for axes, mixture, share in zip(grid[:, column], mixed, shares, strict=True):
            _show(axes, mixture, f"{share:.0%} + {1 - share:.0%}")
    for axes, name in zip(grid[0], names, strict=False):
        axes.set_title(name, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")


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


def _show(axes: Axes, pixels: Tensor, caption: str = "") -> None:
    axes.imshow(as_colors(pixels).permute(1, 2, 0).numpy(), interpolation="none")
    axes.text(0.5, -0.02, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)

"""What stands beside a single prediction: the nearest training images, and what in the image speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.evidence import HeatMap, Near
from pipeline.report.page_parts import data_uri, thumbnail
from pipeline.report.tasks.registry import PageContext

NEAREST = 3
"""Training images that are shown beside a prediction."""

SMALL = 112
"""Pixels on the longer side of a picture that stands beside another one."""

_GLOW = (255, 90, 0)
"""The color of what speaks for a class, over a photograph."""


@dataclass(frozen=True)
class Beside:
    """What stands beside a prediction.

    Attributes
    ----------
    nearest : list of (str, Near)
        Training images near it that can be read, as data URIs.
    heat : (str, str, str) or None
        The image as the network sees it, and over it what speaks for what is said, as data URIs; and what it does.
    """

    nearest: list[tuple[str, Near]]
    heat: tuple[str, str, str] | None


def what_stands_beside(
    context: PageContext, indices: NDArray[np.int64], outputs: Sequence[int] | None
) -> tuple[list[Beside], str]:
    """Return what stands beside test samples, and what there is to say of what is missing.

    Parameters
    ----------
    context : PageContext
    indices : int64 [n]
        Of the samples, among the predictions.
    outputs : sequence of int or None
        Which output of each is explained by a heat map; None for no heat maps.
    """
    if context.evidence is None:
        return [Beside([], None) for _ in indices], ""
    keys = [key.decode() for key in context.predictions.keys[indices]]
    options = context.first.results[0].options
    nearest = [
        [(uri, near) for near in of_sample if (uri := thumbnail(near.location, options, SMALL)) is not None]
        for of_sample in context.evidence.nearest(keys, NEAREST)
    ]
    notes = [context.evidence.features_note] if len(indices) else []
    pictures: list[tuple[str, str, str] | None] = [None] * len(indices)
    if outputs is not None:
        locations = [str(location) for location in context.predictions.locations[indices]]
        found = context.evidence.heat_maps(keys, locations, outputs)
        pictures = [None if one is None else (_view(one), _glow(one), _does(one)) for one in found.maps]
        notes.append(found.note)
    beside = [Beside(near, heat) for near, heat in zip(nearest, pictures, strict=True)]
    return beside, " ".join(filter(None, notes))


def words_of(shown: Sequence[Beside], context: PageContext, note: str, of_what: str) -> str:
    """Return what a page says of what stands beside predictions: what it is, and why some of it is missing."""
    evidence = context.evidence
    if evidence is None:
        return ""
    parts = []
    if any(one.heat is not None for one in shown):
        parts.append(f"Orange is what speaks for {of_what} ({evidence.heat_of}).")
    if any(one.nearest for one in shown):
        parts.append(f"The nearest training images are those by the cosine of the features of {evidence.near_of}.")
    return " ".join([*parts, *filter(None, [note])])


def _view(heat: HeatMap) -> str:
    image = Image.fromarray(heat.view)
    image.thumbnail((SMALL + SMALL // 2, SMALL + SMALL // 2))
    return data_uri(image)


def _does(heat: HeatMap) -> str:
    return "speaks least against" if heat.least_against else "speaks for"


def _glow(heat: HeatMap) -> str:
    """Return strengths as a picture of a few pixels, the clearer the weaker, which a browser smooths."""
    glow = np.empty((*heat.strengths.shape, 4), dtype=np.uint8)
    glow[..., :3] = _GLOW
    glow[..., 3] = np.round(200 * heat.strengths)
    return data_uri(Image.fromarray(glow), "PNG")

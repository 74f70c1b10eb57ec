"""Where in an image a prediction comes from: Grad-CAM (Selvaraju et al. 2017, section 3).

A map's channels are weighed by the gradient of a class's output, averaged over the places; what speaks for the class is
kept. Where a linear layer follows the average over the places, these are class activation maps (Zhou et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EXTRA_TOKENS = (0, 1, 2, 5)
"""Tokens before those of the patches: class, distillation and register tokens."""


class TappedMap(NamedTuple):
    """A map that a network has computed on its way: [b, C, h, w], [b, h, w, C] or tokens [b, N, C], by its `layout`."""

    values: Tensor
    layout: str


def scores_of(answered: Tensor, classes: Sequence[int], *, of_softmax: bool) -> Tensor:
    """Return the output of each image that is explained, [b], of what a head answers, [b, classes].

    Of a softmax differences alone count, and a head may put all of them into some outputs, as logistic regression on
    two classes leaves that of the first at 0. There it is the output less the mean of all.
    """
    if of_softmax:
        answered = answered - answered.mean(dim=1, keepdim=True)
    return answered[torch.arange(len(classes)), torch.as_tensor(classes)]


def place_evidence(scores: Tensor, maps: Sequence[TappedMap]) -> Tensor | None:
    """Return what the places of the deepest map that counts for scores add to them, float32 [b, h, w].

    What speaks against is below zero. Numbers are those of an area, and not of a place, so that maps of unlike
    fineness can be added.

    Parameters
    ----------
    scores : Tensor [b]
        One for each image, computed of the maps under autograd.
    maps : sequence of TappedMap
        From the image upwards. Above the last block of a transformer that is read by its class token no place of a
        patch counts any more: then it is a map below.

    Returns
    -------
    Tensor or None
        None where no place of any map counts: there are none, or the scores do not depend on them smoothly.
    """
    if not maps or not scores.requires_grad:
        return None
    found: Sequence[Tensor | None] = torch.autograd.grad(
        scores.sum(), [tapped.values for tapped in maps], allow_unused=True
    )
    for tapped, gradients in zip(reversed(maps), reversed(found), strict=True):
        if gradients is None:
            continue
        grid = _channels_last(tapped.values.detach().float(), tapped.layout)
        # a channel that is alike at all places has no slope of its deviation over them
        slopes = _channels_last(gradients.float().nan_to_num(0.0, 0.0, 0.0), tapped.layout)
        if grid is not None and slopes is not None and slopes.any():
            places = grid.shape[1] * grid.shape[2]
            return torch.einsum("bhwc,bc->bhw", grid, slopes.mean(dim=(1, 2))) * places
    return None


def strengths_of(evidence: Tensor) -> list[NDArray[np.float32] | None]:
    """Return what speaks for a class at places, [b, h, w], as parts of the most, 0 to 1; None where nothing does."""
    speaks = evidence.clamp(min=0)
    highest = speaks.flatten(1).amax(dim=1)
    return [
        (place / top).cpu().numpy() if float(top) > 0 and math.isfinite(float(top)) else None
        for place, top in zip(speaks, highest, strict=True)
    ]


def _channels_last(maps: Tensor, layout: str) -> Tensor | None:
    """Return maps as [b, h, w, C]; None of what has one place, or tokens that are no square of patches."""
    if layout == "tokens":
        found = [extra for extra in _EXTRA_TOKENS if math.isqrt(maps.shape[1] - extra) ** 2 == maps.shape[1] - extra]
        if not found:
            return None
        side = math.isqrt(maps.shape[1] - found[0])
        places = maps[:, found[0] :].reshape(len(maps), side, side, -1)
    else:
        places = maps if layout == "nhwc" else maps.permute(0, 2, 3, 1)
    return places if places.shape[1] * places.shape[2] > 1 else None

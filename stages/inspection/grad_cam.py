"""Where in an image a prediction comes from: Grad-CAM (Selvaraju et al. 2017, section 3).

A map's channels are weighed by the gradient of a class's output, averaged over the places; what speaks for the class is
kept. Where a linear layer follows the average over the places, these are class activation maps (Zhou et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EXTRA_TOKENS = (0, 1, 2, 5)
"""Tokens before those of the patches: class, distillation and register tokens."""


def grad_cam(
    maps: Tensor, outputs: Callable[[Tensor], Tensor], classes: Sequence[int], layout: str
) -> list[NDArray[np.float32] | None]:
    """Return how much each place of a map speaks for a class, 0 to 1, one [h, w] for each image.

    None where no place does, or where the outputs do not depend on the map smoothly (votes of neighbors).

    Parameters
    ----------
    maps : Tensor [b, C, h, w], [b, h, w, C] or [b, N, C]
        Maps, or tokens of square patches, in the evaluation view.
    outputs : callable
        Maps -> what a head answers, [b, classes].
    classes : sequence of int
        Which output of each image is explained.
    layout : str
        What the dimensions are: 'nchw', 'nhwc' or 'tokens'.
    """
    with torch.enable_grad():
        leaves = maps.detach().float().requires_grad_()
        answered = outputs(leaves)
        if not answered.requires_grad:
            return [None] * len(classes)
        asked = answered[torch.arange(len(classes)), torch.as_tensor(classes)].sum()
        found: Sequence[Tensor | None] = torch.autograd.grad(asked, leaves, allow_unused=True)
    (gradients,) = found
    if gradients is None:
        return [None] * len(classes)
    grid, slopes = _channels_last(leaves.detach(), layout), _channels_last(gradients, layout)
    if grid is None or slopes is None:
        return [None] * len(classes)
    speaks = torch.einsum("bhwc,bc->bhw", grid, slopes.mean(dim=(1, 2))).clamp_(min=0)
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

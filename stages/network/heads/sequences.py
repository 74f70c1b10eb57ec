"""What heads on frames in order have in common: where the frames are, and the mean over them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stages.network.aggregate import split_bags

WIDTH = 64
"""Numbers that the features of a frame become."""


def in_order(bags: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frames [b, F, d] of bags with those that are missing moved to the end, and how many there are [b]."""
    rows, present = split_bags(bags)
    count = rows.shape[1]
    # each has a number of its own, so that any sorting is a stable one, and ONNX has but one
    order = (torch.arange(count, device=rows.device) + count * (~present).to(torch.int64)).argsort(dim=1)
    frames = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2]))
    return frames, present.sum(dim=1).clamp_min(1)


def is_frame(lengths: Tensor, count: int) -> Tensor:
    """Return where there is a frame, bool [b, count], of sequences of these lengths."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]


def mean_over_time(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean [b, d] of the states [b, F, d] of the frames that there are."""
    there = is_frame(lengths, states.shape[1])[..., None]
    return states.masked_fill(~there, 0.0).sum(dim=1) / lengths[:, None]


def positions(count: int, width: int) -> Tensor:
    """Return a vector for each place in a sequence of any length, [count, width].

    Sines and cosines of geometric wavelengths (Vaswani et al. 2017, "Attention Is All You Need", section 3.5).
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)

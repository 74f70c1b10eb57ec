"""The exact k largest of more values than there are at once, a block of them after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_topk(best: Tensor, indices: Tensor, block: Tensor, first: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row so far, the largest first, and which they are.

    Parameters
    ----------
    best, indices : Tensor [b, any]
        What was returned for the blocks before; [b, 0] for the first one.
    block : Tensor [b, n]
        More values of the same rows.
    first : int
        The index of the first column of the block.
    k : int

    Returns
    -------
    best, indices : Tensor [b, k]
        As many as there are, where these are fewer.
    """
    values, columns = block.topk(min(k, block.shape[1]), dim=1)
    joined = torch.cat([best, values], dim=1)
    largest, order = joined.topk(min(k, joined.shape[1]), dim=1)
    return largest, torch.cat([indices, columns + first], dim=1).gather(1, order)

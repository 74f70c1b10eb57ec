"""How the tensors of a network lie in memory."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def to_channels_last(module: nn.Module) -> None:
    """Lay every parameter and buffer of rank 4 out in channels_last, in place.

    ``Module.to(memory_format=torch.channels_last)`` does it too, but refuses a network with a tensor of rank 5, such as
    the mask that a traced Swin Transformer keeps of its shifted windows.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)

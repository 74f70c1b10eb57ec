"""How many channels the images of a network have: three, unless its first convolution was widened."""

from __future__ import annotations

from torch import nn

from stages.config.pixel_values import COLORS

_ATTRIBUTE = "image_channels"


def channels_of(module: nn.Module) -> int:
    """Return how many channels the images of a network have."""
    return int(getattr(module, _ATTRIBUTE, COLORS))


def set_channels(module: nn.Module, count: int) -> None:
    """Note how many channels the images of a network have."""
    setattr(module, _ATTRIBUTE, count)

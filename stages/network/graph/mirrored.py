"""What a trunk says of images and of their mirror images, averaged, or of images alone beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MirroredTrunk(nn.Module):
    """The mean of the rows of an image and of its mirror image, as `mirror` has them in the cache.

    Parameters
    ----------
    trunk : nn.Module
        Normalised images [b, 3, S, S] -> a row for each tap, vectors [b, d].
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the means, one [b, d] for each tap."""
        mirrored = self.trunk(images.flip(-1))
        return tuple((row + other) / 2 for row, other in zip(self.trunk(images), mirrored, strict=True))


def columns_of_look(number: int, width: int) -> slice:
    """Return where the rows of a look stand among the columns of what `LooksTrunk` gives.

    Parameters
    ----------
    number : int
        Of the look, in the order of `looks`, from 0.
    width : int
        How many numbers a row of one look has: d of all taps.
    """
    return slice(width * number, width * (number + 1))


class LooksTrunk(nn.Module):
    """Rows of images alone and their means with mirror images, side by side, of one pass over each of the two.

    Where each look stands says `columns_of_look`.

    Parameters
    ----------
    trunk : nn.Module
        Normalised images [b, 3, S, S] -> a row for each tap, vectors [b, d].
    looks : sequence of bool
        What stands in a row, in its order: of images and mirror images (True), or of images alone.
    """

    def __init__(self, trunk: nn.Module, looks: Sequence[bool]) -> None:
        super().__init__()
        self.trunk = trunk
        self.looks = tuple(looks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the rows, ([b, looks x d of all taps],)."""
        own = torch.cat([*self.trunk(images)], dim=1)
        mean = own
        if any(self.looks):
            mean = (torch.cat([*self.trunk(images.flip(-1))], dim=1) + own) / 2
        return (torch.cat([mean if mirrored else own for mirrored in self.looks], dim=1),)

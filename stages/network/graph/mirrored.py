"""What a trunk says of images and of their mirror images, averaged."""

from __future__ import annotations

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

"""Images that hold little to learn from: dark, light, or nearly of one color. Looked for in the pixels.

Brightness and limits are those of cleanvision (github.com/cleanlab/cleanvision): the perceived brightness of a pixel
is the root of 0.241 R^2 + 0.691 G^2 + 0.068 B^2; an image is dark where its brightest pixels are darker than a third of
white, light where its darkest are almost white, and holds little where the entropy of its gray levels is below 3 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from stages.data.image_stream import ImageRequest, stream_images
from stages.data.images.reading import Reading
from stages.data.images.rgb import as_colors
from stages.runtime.progress import progress

DARK = 0.32
"""The 99th percentile of brightness below which an image is dark."""

LIGHT = 0.95
"""The 5th percentile of brightness above which it is light."""

FEW_BITS = 3.0
"""The entropy of its gray levels below which it holds little, of at most 8 bits."""

LOW_INFORMATION = "low information"

_SIDE = 128
"""Pixels of a side at which images are looked at."""

_WEIGHTS = torch.tensor([0.241, 0.691, 0.068])
_BATCH = 64


@dataclass(frozen=True)
class PoorImage:
    """An image that holds little to learn from.

    Attributes
    ----------
    index : int
        Of the sample.
    reason : str
        'dark', 'light' or 'low information'.
    score : float
        The 99th or 5th percentile of brightness, 0 to 1, or the entropy in bits.
    """

    index: int
    reason: str
    score: float


def find_poor_images(locations: Sequence[str], reading: Reading, threads: int) -> list[PoorImage]:
    """Return the images that are dark, light or nearly of one color, each kind from the worst on.

    Parameters
    ----------
    locations : sequence of str
        Of each sample; one that cannot be read is passed over.
    reading : Reading
        As they are read for the network.
    threads : int
        That decode.
    """
    requests = (ImageRequest(location, _small, reading) for location in locations)
    found: list[PoorImage] = []
    with progress(label="look at pixels", total=len(locations), unit="images") as bar:
        for batch in stream_images(requests, _BATCH, threads):
            brightness = _brightness(batch.images)
            for index, levels in zip(batch.indices, brightness, strict=True):
                found += _judge(index, levels)
            bar.update(len(batch.indices) + len(batch.failures))
    return sorted(found, key=lambda image: (image.reason, -image.score if image.reason == "light" else image.score))


def _small(image: Tensor) -> Tensor:
    colors: Tensor = F.resize(as_colors(image), [_SIDE, _SIDE])
    return colors


def _brightness(images: Tensor) -> NDArray[np.float32]:
    """Return the perceived brightness, 0 to 1, [b, pixels], of images, uint8 [b, 3, S, S]."""
    squares = (images.permute(0, 2, 3, 1).flatten(1, 2).to(torch.float32) / 255).square()
    brightness: NDArray[np.float32] = (squares @ _WEIGHTS).sqrt().numpy()
    return brightness


def _judge(index: int, brightness: NDArray[np.float32]) -> list[PoorImage]:
    darkest, brightest = (float(value) for value in np.percentile(brightness, [5, 99]))
    if brightest < DARK:
        return [PoorImage(index, "dark", brightest)]
    if darkest > LIGHT:
        return [PoorImage(index, "light", darkest)]
    counts = np.bincount((brightness * 255).astype(np.int64), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    entropy = abs(float((shares * np.log2(shares)).sum()))
    return [PoorImage(index, LOW_INFORMATION, entropy)] if entropy < FEW_BITS else []

"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.records import SourceRecords

DIGITS = "digits:"
"""What the locations of the digits begin with."""


def list_digits() -> SourceRecords:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    _, labels = _digits()
    return SourceRecords(
        locations=[f"{DIGITS}{index}" for index in range(len(labels))],
        labels=[str(label) for label in labels],
        class_names=tuple("0123456789"),
        splits=[""] * len(labels),
        strata=[""] * len(labels),
        keys=[key_of_pixels(digits_image(f"{DIGITS}{index}")) for index in range(len(labels))],
    )


def digits_image(location: str) -> Tensor:
    """Return the digit at ``digits:INDEX``, uint8 [3, 8, 8]."""
    images, _ = _digits()
    index = location.removeprefix(DIGITS)
    if not index.isdecimal() or int(index) >= len(images):
        raise UnreadableImageError(f"there are digits:0 to digits:{len(images) - 1}", location)
    return torch.from_numpy(images[int(index)]).expand(3, -1, -1).clone()


@functools.cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # slow to import, and needed by this set alone

    images, labels = load_digits(return_X_y=True)
    return np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels

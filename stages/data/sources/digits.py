"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.config.data import DataConfig
from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.records import Progress, SourceRecords
from stages.data.sources.registry import register_source

DIGITS = "digits:"
"""What the locations of the digits begin with."""


def digits_image(location: str, shorter_side: int | None = None) -> Tensor:
    """Return the digit at ``digits:INDEX``, uint8 [3, 8, 8]; it is never reduced."""
    images, _ = _digits()
    index = location.removeprefix(DIGITS)
    if not index.isdecimal() or int(index) >= len(images):
        raise UnreadableImageError(f"there are digits:0 to digits:{len(images) - 1}", location)
    return torch.from_numpy(images[int(index)]).expand(3, -1, -1).clone()


@register_source("digits", open_image=digits_image, help_text="digits (packaged)")
def list_digits(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    _, labels = _digits()
    return SourceRecords(
        locations=[f"{DIGITS}{index}" for index in range(len(labels))],
        targets=[str(label) for label in labels],
        class_names=tuple("0123456789"),
        splits=[""] * len(labels),
        strata=[""] * len(labels),
        keys=[key_of_pixels(digits_image(f"{DIGITS}{index}")) for index in range(len(labels))],
    )


@functools.cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # slow to import, and needed by this set alone

    images, labels = load_digits(return_X_y=True)
    return np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels

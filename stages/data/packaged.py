"""Data sets that come as Python packages: ``elpv`` (files) and ``digits`` (scikit-learn's array)."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.data.listing import Listing
from stages.data.photograph import UnreadableImageError

DIGITS = "digits:"
"""What the locations of the digits begin with."""


def list_elpv() -> Listing:
    """Return ELPV: 2,624 electroluminescence images of solar cells, functional or defective.

    A cell is defective if the annotators gave that a probability of at least 0.5. Splits are to take the same share
    of mono- and polycrystalline cells. Deitsch et al., Solar Energy 185 (2019).

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "--data elpv needs the package elpv-dataset: pip install elpv-dataset (or pip install 'cutpoint[elpv]')"
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    try:
        lines = (folder / "labels.csv").read_text().splitlines()
    except OSError as error:
        raise DataError(f"the package elpv-dataset is broken: {folder / 'labels.csv'}: {error.strerror}") from error
    rows = [line.split() for line in lines if line.strip()]
    class_names = ("functional", "defective")
    return Listing(
        locations=[str(folder / path) for path, _, _ in rows],
        labels=[class_names[float(probability) >= 0.5] for _, probability, _ in rows],
        class_names=class_names,
        splits=[""] * len(rows),
        strata=[cell_type for _, _, cell_type in rows],
    )


def list_digits() -> Listing:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    _, labels = _digits()
    return Listing(
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


def key_of_pixels(image: Tensor) -> str:
    """Return the key of an image, uint8 [3, H, W], that has no file: the digest of its pixels and their shape."""
    return key_of_bytes(repr(tuple(image.shape)).encode() + image.numpy().tobytes())


@functools.cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # slow to import, and needed by this set alone

    images, labels = load_digits(return_X_y=True)
    return np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels

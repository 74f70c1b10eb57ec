"""What a caller may give as masks, as files: arrays are written to a folder that lasts as long as they are needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cache import key_of_bytes
from cache.errors import CutonceError, UsageError

_TAKEN = "masks has to be a sequence of paths, or of arrays [h, w] of whole numbers, one for each image"


def mask_files(masks: Any, count: int, folder: Path) -> tuple[list[str], list[str]]:
    """Return where the mask of each image is, and the key of each; those of arrays are written into a folder.

    Parameters
    ----------
    masks : sequence
        Paths; arrays [h, w] of whole numbers from 0 to 65,535, or of truth values, or uint8 [h, w, 3] of colors; one
        array [n, h, w].
    count : int
        Of the images.
    folder : Path

    Raises
    ------
    UsageError
        If they are something else, or of another number.
    """
    if hasattr(masks, "to_numpy"):
        masks = masks.to_numpy()
    if isinstance(masks, Tensor):
        masks = masks.numpy(force=True)
    if isinstance(masks, str | bytes) or not isinstance(masks, Sequence | np.ndarray):
        raise UsageError(f"{_TAKEN}, not a {type(masks).__name__}")
    if len(masks) != count:
        raise UsageError(f"masks holds {len(masks)} masks for {count} images; there has to be one for each")
    files, keys = [], []
    for number, mask in enumerate(masks):
        if isinstance(mask, str | PathLike):
            path = Path(fspath(mask))
            files.append(str(path))
            keys.append(key_of_bytes(path.read_bytes()) if path.is_file() else "")
            continue
        array = _as_numbers(mask, number)
        files.append(str(folder / f"{number}.png"))
        Image.fromarray(array).save(files[-1], compress_level=1)
        keys.append(key_of_bytes(Path(files[-1]).read_bytes()))
    return files, keys


@contextmanager
def masks_as_given(folder: Path) -> Iterator[None]:
    """Let errors from within name masks that `mask_files` has put into a folder as the caller knows them."""
    file = re.compile(re.escape(f"{folder}{os.sep}") + r"(\d+)\.png")
    try:
        yield
    except CutonceError as error:
        error.args = tuple(file.sub(r"masks[\1]", part) if isinstance(part, str) else part for part in error.args)
        raise


def _as_numbers(mask: Any, number: int) -> NDArray[Any]:
    array = mask.numpy(force=True) if isinstance(mask, Tensor) else np.asarray(mask)
    is_mask = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8)
    if not is_mask or not array.size or array.dtype.kind not in "biu":
        raise UsageError(f"{_TAKEN}; masks[{number}] is of the shape {list(array.shape)} and the type {array.dtype}")
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
        raise UsageError(f"masks[{number}] holds numbers beyond 0 to 65,535")
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)

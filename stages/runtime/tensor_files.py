"""Files of safetensors, read wherever they lie."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file.

    The library opens no path that is not UTF-8, as that of a folder from a Windows archive may not be: such a file is
    read here.

    Raises
    ------
    OSError, safetensors.SafetensorError
        If it is not there, or damaged.
    """
    if not is_utf8(path):
        return safetensors.torch.load(path.read_bytes())
    return safetensors.torch.load_file(path)


def is_utf8(path: Path) -> bool:
    """Return whether a path is text that any library can encode."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True

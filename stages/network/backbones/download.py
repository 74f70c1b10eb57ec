"""What goes wrong when weights are fetched, in words that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError

from cache.errors import WeightsError
from stages.network.backbones.weights_file import DAMAGED_FILE_ERRORS, reason_of

# Everything urllib and huggingface_hub raise for a file that cannot be fetched. The hub's client changes with its
# version (requests, httpx), and the first base of its own error is that client's; the rest are OSErrors.
_FETCH_ERRORS: tuple[type[BaseException], ...] = (OSError, HTTPException, HfHubHTTPError.__bases__[0])


def weights_location(configuration: Any) -> tuple[str, str]:
    """Return which file holds timm's weights, and how it gets where timm looks for it."""
    if configuration.hf_hub_id:
        return f"model.safetensors of {configuration.hf_hub_id}", f"copy the folder {HF_HUB_CACHE} from there"
    return configuration.url, f"put it into {checkpoint_folder()}"


@contextmanager
def download_errors(name: str, file: str, remedy: str) -> Iterator[None]:
    """Let a library fetch and load weights, never unpickling code, and say what to do if it cannot."""
    previous = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    except _FETCH_ERRORS as error:
        raise WeightsError(
            f"The weights of {name} could not be fetched: {file} ({reason_of(error)}). Fetch it elsewhere and "
            f"{remedy}, "
            "or give it with `weights` FILE; or take the embedded `backbone` efficientnet_lite0."
        ) from error
    except DAMAGED_FILE_ERRORS as error:
        raise WeightsError(
            f"The weights of {name} could not be loaded: {file} ({reason_of(error)}). If the file found here is "
            f"damaged, delete it; then run this again, or fetch it elsewhere and {remedy}, or give it with "
            "`weights` FILE."
        ) from error
    finally:
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        if previous is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = previous


def checkpoint_folder() -> str:
    """Return where torch.hub keeps what it downloads."""
    return str(Path(torch.hub.get_dir()) / "checkpoints")


def is_downloaded(url: str) -> bool:
    """Say whether torch.hub finds the file of an address on this machine."""
    return (Path(checkpoint_folder()) / Path(urlparse(url).path).name).exists()

"""Weights that every side loads from the same file: pretrained ones where they can be had, else random ones."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from cache.errors import WeightsError
from stages.data.sources.open_image import read_image
from stages.network.backbones.base import Backbone
from stages.network.backbones.efficientnet_lite import BUNDLED
from stages.network.backbones.registry import load_backbone

_MOST_IMAGES = 64


def make(backbone: str, images: str, path: str, download: bool) -> str:
    """Write the weights of a network as a state_dict, and return in words where they come from."""
    loaded, source = _load(backbone, images, download)
    save_file(loaded.module.state_dict(), path)
    return source


def _load(backbone: str, images: str, download: bool) -> tuple[Backbone, str]:
    if download or backbone in BUNDLED:
        try:
            loaded = load_backbone(backbone)
        except WeightsError:
            pass
        else:
            return loaded, loaded.weights_source
    loaded = load_backbone(backbone, "none")
    _calibrate(loaded, images)
    return loaded, f"{loaded.weights_source}, BatchNorm statistics of up to {_MOST_IMAGES} of the images"


def _calibrate(backbone: Backbone, images: str) -> None:
    """Give the BatchNorm layers of a random network the statistics of some images.

    With those it is born with, some networks end in numbers around 1e-13 that are nearly the same for all images:
    nothing that features could be compared by, or whose time would be that of a trained network.
    """
    layers = [module for module in backbone.module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, here of one
        layer.train()
    files = islice(sorted(Path(images).rglob("*.*")), _MOST_IMAGES)
    views = torch.stack([backbone.preprocessing.render(read_image(str(file))) for file in files])
    with torch.no_grad():
        backbone.module(backbone.preprocessing.normalize(views))

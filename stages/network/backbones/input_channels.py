"""Networks for images with other numbers of channels than three: the first convolution is widened."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from cache.errors import UsageError
from stages.config.image_size import shape_of_size
from stages.config.pixel_values import COLORS
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.base import Backbone
from stages.network.backbones.weights_file import digest_of_weights
from stages.network.image_channels import set_channels


def with_channels(backbone: Backbone, count: int) -> Backbone:
    """Return a backbone for images of `count` channels; its module is changed.

    The filters of the first convolution are repeated, and scaled so that its output keeps its size, as timm does for
    its ``in_chans`` (Wightman, PyTorch Image Models). Mean and standard deviation are repeated alike.

    Raises
    ------
    UsageError
        If the network has no convolution that takes the image as it is, or changes the colors itself first.
    """
    module = backbone.module
    name, convolution = _first_convolution(backbone)
    weight = convolution.weight.detach()
    copies = -(-count // COLORS)
    widened = weight.repeat(1, copies, 1, 1)[:, :count] * (COLORS / count)
    # changed in place: a convolution of a kind of its own, such as timm's, stays what it is
    convolution.in_channels, convolution.weight = count, nn.Parameter(widened, requires_grad=False)
    set_channels(module, count)
    return replace(
        backbone,
        weights=digest_of_weights(module),
        weights_source=f"{backbone.weights_source}, {name} widened to {count} channels",
        preprocessing=_widened(backbone.preprocessing, count),
    )


def _widened(preprocessing: Preprocessing, count: int) -> Preprocessing:
    copies = -(-count // COLORS)
    mean, std = ((values * copies)[:count] for values in (preprocessing.mean, preprocessing.std))
    return replace(preprocessing, mean=mean, std=std)


def _first_convolution(backbone: Backbone) -> tuple[str, nn.Conv2d]:
    """Return the convolution that the image comes to, and its name."""
    module, size = backbone.module, backbone.preprocessing.image_size
    seen: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda _, inputs, name=name: seen.append(name))
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            module(torch.zeros(1, COLORS, *shape_of_size(size)))
    finally:
        for hook in hooks:
            hook.remove()
    first = module.get_submodule(seen[0]) if seen else None
    if not isinstance(first, nn.Conv2d) or first.in_channels != COLORS or first.groups != 1:
        raise UsageError(f"{backbone.name} has no first convolution over red, green and blue: choose three `channels`")
    if getattr(module, "transform_input", False):
        raise UsageError(f"{backbone.name} changes the colors of its images itself: choose three `channels`")
    return seen[0], first

"""A network that is handed in from Python where the name of one could stand."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from cache.errors import UsageError
from stages.config.image_size import ImageSize
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.base import Backbone
from stages.network.backbones.user_module import backbone_from_module
from stages.network.backbones.weights_file import digest_of_weights
from stages.network.graph.hooked import require_tensor_output


def as_backbone(
    network: nn.Module | Backbone,
    image_size: ImageSize | None = None,
    preprocessing: Preprocessing | None = None,
    *,
    cached: bool = True,
) -> Backbone:
    """Return a network that was handed in as a backbone; what was handed in stays as it is.

    Parameters
    ----------
    network
        A module, of which a copy is taken: it may be trained on, and is left in the mode it is in. Or a backbone, such
        as :func:`~stages.network.backbones.user_module.backbone_from_module` makes.
    image_size
        Side of its images in pixels, where another one than its preprocessing's is wanted.
    preprocessing
        Of a module; by default ImageNet's, as ``backbone_from_module`` has it. A backbone has its own.
    cached
        Whether features of it are to be found again by what it is. If not, its source need not be there to be read.

    Raises
    ------
    UsageError
        If it is something else, is called with images and gives no tensor, has no image size, or has changed since it
        was made a backbone; or if its features are cached and nothing says what it is.
    """
    if isinstance(network, Backbone):
        return _unchanged(network, image_size)
    require_network(network)
    name = None if cached else type(network).__qualname__
    return backbone_from_module(copy.deepcopy(network), preprocessing, image_size=image_size, name=name)


def require_network(network: Any) -> None:
    """Refuse what is neither a module nor a backbone.

    Raises
    ------
    UsageError
        That names what is taken.
    """
    if not isinstance(network, nn.Module | Backbone):
        description = (
            f"the class {network.__qualname__}" if isinstance(network, type) else f"a {type(network).__name__}"
        )
        raise UsageError(
            f"backbone has to be a name, a torch.nn.Module, or what backbone_from_module returns, not {description}"
        )


def _unchanged(backbone: Backbone, image_size: ImageSize | None) -> Backbone:
    """Return a backbone, for images of another size where one is asked for."""
    if digest_of_weights(backbone.module) != backbone.weights:
        raise UsageError(
            f"the tensors of the backbone {backbone.name} have changed since it was made, and what is cached of it is "
            "of others: make it anew with backbone_from_module"
        )
    if image_size in (None, backbone.preprocessing.image_size):
        return backbone
    require_tensor_output(backbone.module, image_size)
    return replace(backbone, preprocessing=backbone.preprocessing.with_size(image_size))

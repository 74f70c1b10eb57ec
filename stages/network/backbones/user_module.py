"""A network of the user's own: named by the import path of what makes it, or handed in from Python."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from cache.errors import UsageError
from stages.config.image_size import ImageSize, shape_of_size
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.base import Backbone, LoadedNetwork, count_classes
from stages.network.backbones.module_identity import identity_of_module
from stages.network.backbones.registry import register_backbone, suggestions
from stages.network.backbones.weights_file import digest_of_weights
from stages.network.graph.hooked import require_tensor_output
from stages.network.import_path import error_text, import_from_path
from stages.runtime.fresh_settings import usable_anywhere

_IMPORT_PATH = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*)(@(?P<identity>.+))?")

_RESIZE = 256 / 224
"""The shorter side of an image before its middle is cut out, in image sizes, where nobody says otherwise."""


@usable_anywhere
def backbone_from_module(
    module: nn.Module,
    preprocessing: Preprocessing | None = None,
    *,
    image_size: ImageSize | None = None,
    name: str | None = None,
) -> Backbone:
    """Return a network of the user's own as a backbone, for :func:`~stages.extraction.extractor.build_extractor`.

    Parameters
    ----------
    module
        Images float [b, 3, S, S] -> a tensor with a row for each, or a tuple or mapping with one in it. It is put into
        evaluation mode, and none of its parameters requires gradients afterwards.
    preprocessing
        How images become what it was trained to see. By default ImageNet's: the shorter side becomes 256 / 224 of the
        image size, the middle is cut out, and mean and standard deviation are ImageNet's.
    image_size
        S, in pixels, where no preprocessing says it; another one than the preprocessing's scales that.
    name
        What the cache calls it; by default its class and a digest of the source. With a name the source is not looked
        at: give another one whenever what the network computes changes.

    Raises
    ------
    UsageError
        If there is no image size, the network gives no tensor, or there is neither name nor source.
    """
    preprocessing = _preprocessing(type(module).__name__, preprocessing, image_size)
    identity = name or identity_of_module(module)
    module.eval().requires_grad_(False)
    require_tensor_output(module, preprocessing.image_size)
    return Backbone(
        name=name or type(module).__qualname__,
        module=module,
        weights=digest_of_weights(module),
        weights_source="handed in",
        preprocessing=preprocessing,
        num_classes=count_classes(module),
        identity=identity,
        handed_in=True,
    )


@register_backbone(
    "import path",
    accepts=lambda name: _IMPORT_PATH.fullmatch(name) is not None,
    help_text="an import path of your own (package.module:factory)",
)
def load_user_module(name: str, pretrained: bool, image_size: ImageSize | None) -> LoadedNetwork:
    """Return what the factory at an import path makes; its weights are its own business, wanted or not.

    ``package.module:factory`` is called without arguments and returns a module, or a module and its preprocessing. With
    ``@NAME`` behind it, NAME is what the cache calls the network, and its source is not looked at.
    """
    path = _IMPORT_PATH.fullmatch(name)
    assert path is not None
    factory: Any = import_from_path("backbone", name, callable, lambda: suggestions(name))
    if not callable(factory):
        raise UsageError(f"`backbone` {name}: {path['factory']} is a {type(factory).__name__}, which cannot be called.")
    try:
        result: Any = factory()
    except Exception as error:
        raise UsageError(f"`backbone` {name}: {path['factory']}() raised {error_text(error)}.") from error
    module, preprocessing = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, nn.Module) or not isinstance(preprocessing, Preprocessing | None):
        returned = ", ".join(type(part).__name__ for part in (result if isinstance(result, tuple) else (result,)))
        raise UsageError(
            f"`backbone` {name}: {path['factory']}() must return a torch.nn.Module, or one and its Preprocessing, and "
            f"returned {returned}."
        )
    preprocessing = _preprocessing(f"`backbone` {name}", preprocessing, image_size)
    module.eval()
    require_tensor_output(module, preprocessing.image_size)
    identity = path["identity"] or identity_of_module(module)
    return LoadedNetwork(module, preprocessing, f"as {path['module']}:{path['factory']} gives them", identity=identity)


def _preprocessing(subject: str, preprocessing: Preprocessing | None, image_size: ImageSize | None) -> Preprocessing:
    if preprocessing is not None:
        return preprocessing if image_size is None else preprocessing.with_size(image_size)
    if image_size is None:
        raise UsageError(
            f"{subject} comes without a preprocessing, so nothing says how large its images are: give `image_size`, "
            "or a "
            "Preprocessing with the module"
        )
    return Preprocessing(image_size, round(_RESIZE * min(shape_of_size(image_size))))

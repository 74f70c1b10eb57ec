"""Networks of the library transformers, from the Hugging Face hub or a folder: ``hf:facebook/dinov2-base``."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from typing import Any

from torch import nn

from cache.errors import UsageError, WeightsError
from stages.config.image_size import ImageSize
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.download import download_errors
from stages.network.backbones.registry import register_backbone
from stages.network.graph.hooked import require_tensor_output

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that torchvision has for tensors."""

_NOT_ARCHITECTURE = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
"""What a configuration says besides what is computed."""


@register_backbone(
    "hf:",
    accepts=bool,
    help_text="a model of the library transformers (hf:facebook/dinov2-base, hf:FOLDER)",
)
def load_transformers(name: str, pretrained: bool, image_size: ImageSize | None) -> LoadedNetwork:
    """Return a model of the hub, or in a folder, with what its image processor does as the preprocessing.

    Raises
    ------
    UsageError
        If the library is missing, the model takes no images, or its processor does what a Preprocessing cannot say.
    WeightsError
        If its files cannot be fetched.
    """
    library = _transformers()
    remedy = "give the folder they are in (`backbone` hf:FOLDER)"
    try:
        with download_errors(name, f"config.json and preprocessor_config.json of {name}", remedy):
            configuration = library.AutoConfig.from_pretrained(name)
            processor = library.AutoImageProcessor.from_pretrained(name).to_dict()
        with download_errors(name, f"model.safetensors of {name}", remedy) if pretrained else nullcontext():
            module: nn.Module = (
                library.AutoModel.from_pretrained(name, config=configuration)
                if pretrained
                else library.AutoModel.from_config(configuration)
            )
    except WeightsError:
        raise
    except (ValueError, KeyError, ImportError) as error:
        raise UsageError(
            f"`backbone` hf:{name} is no model of images that transformers can load by itself "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    preprocessing = _preprocessing(name, processor)
    if image_size is not None:
        preprocessing = preprocessing.with_size(image_size)
    module.eval()
    require_tensor_output(module, preprocessing.image_size)
    source = f"transformers {name}" if pretrained else random_weights_source()
    return LoadedNetwork(module, preprocessing, source, identity=_identity(module, configuration))


def _transformers() -> Any:
    try:
        import transformers  # slow to import, and needed by this family alone
    except ImportError as error:
        raise UsageError(
            "`backbone` hf:... needs the package transformers: pip install 'transformers>=4.48'"
        ) from error
    return transformers


def _identity(module: nn.Module, configuration: Any) -> str:
    """Return what the cache calls a model: its class and its configuration, wherever it was loaded from."""
    described = {key: value for key, value in configuration.to_dict().items() if key not in _NOT_ARCHITECTURE}
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16)
    return f"transformers {type(module).__name__} {digest.hexdigest()}"


def _preprocessing(name: str, processor: dict[str, Any]) -> Preprocessing:
    """Return what an image processor does: resize, centre crop, normalisation.

    Where it makes an image square by squeezing it (a height and a width and no crop), the middle is cut out instead.
    """
    size = _side(processor.get("size"))
    crop_size = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    resize = size if processor.get("do_resize", True) else crop_size
    image_size = crop_size or size
    interpolation = _INTERPOLATIONS.get(processor.get("resample", 2))
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    if image_size is None or resize is None or interpolation is None or abs(255 * scale - 1) > 1e-6:
        relevant = ("size", "crop_size", "resample", "rescale_factor", "do_rescale")
        settings = {key: processor.get(key) for key in relevant}
        raise UsageError(
            f"the image processor of {name} does what cannot be said as resize, centre crop and normalisation of "
            f"pixels between 0 and 1: {settings}. Load the model yourself and hand it in with a Preprocessing"
        )
    if not processor.get("do_normalize", True):
        return Preprocessing(image_size, resize, interpolation, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    red, green, blue = processor["image_mean"]
    red_std, green_std, blue_std = processor["image_std"]
    return Preprocessing(image_size, resize, interpolation, (red, green, blue), (red_std, green_std, blue_std))


def _side(size: Any) -> int | None:
    """Return the one side that a size of transformers' has; None where height and width differ, or of other kinds."""
    if isinstance(size, int):
        return size
    size = size or {}
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    height, width = size.get("height"), size.get("width")
    return int(height) if height is not None and height == width else None

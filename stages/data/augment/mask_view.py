"""What a mask looks like where its image is seen in the evaluation view: the same places, by nearest, void beside."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stages.data.images.preprocessing import Preprocessing, inner_shape, paddings

VOID = 255
"""What a mask has where no class is known, as where a rendering leaves a place open."""


def mask_view(preprocessing: Preprocessing, mask: Tensor) -> Tensor:
    """Return a mask, uint8 [H, W], as `preprocessing` renders its image: uint8, void where there is no image."""
    shape = preprocessing.shape
    if preprocessing.crop_mode == "squash":
        return resized_mask(mask, list(shape))
    height, width = mask.shape[-2:]
    if preprocessing.crop_mode == "border":
        return padded_mask(resized_mask(mask, list(inner_shape(height, width, shape))), shape)
    resized = resized_mask(mask, preprocessing.resized_size(height, width))
    larger = (max(resized.shape[-2], shape[0]), max(resized.shape[-1], shape[1]))
    view: Tensor = F.center_crop(padded_mask(resized, larger), list(shape))
    return view


def padded_mask(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a mask of at most these rows and columns in the middle of as many of void, uint8 [*shape]."""
    height, width = mask.shape[-2:]
    padded: Tensor = F.pad(tv_tensors.Mask(mask), paddings(height, width, shape), fill=VOID)
    return padded


def resized_mask(mask: Tensor, size: list[int]) -> Tensor:
    """Return a mask in another size, each pixel the nearest by its center, as smooth resizing has the image's.

    torchvision's own way with masks takes the nearest to a corner, which lies half a pixel aside.
    """
    image = mask.as_subclass(Tensor)[None]
    resized: Tensor = tv_tensors.Mask(F.resize(image, size, interpolation=InterpolationMode.NEAREST_EXACT)[0])
    return resized


def seen_part(logits: Tensor, preprocessing: Preprocessing, shape: tuple[int, int]) -> Tensor:
    """Return of the logits of a view, [classes, h, w], those of the image in it, without what was put beside it.

    Parameters
    ----------
    logits, preprocessing
    shape
        Height and width of the image, or the tile, that the view shows.
    """
    if preprocessing.crop_mode != "border":
        return logits
    top, left, rows, columns = preprocessing.image_area(*shape)
    size = list(preprocessing.shape)
    view = functional.interpolate(logits[None].float(), size, mode="bilinear", align_corners=False)[0]
    return view[:, top : top + rows, left : left + columns]

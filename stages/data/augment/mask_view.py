"""What a mask looks like where its image is seen in the evaluation view: the same places, by nearest, void beside."""

from __future__ import annotations

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stages.data.images.preprocessing import Preprocessing

VOID = 255
"""What a mask has where no class is known, as where a rendering leaves a place open."""


def mask_view(preprocessing: Preprocessing, mask: Tensor) -> Tensor:
    """Return a mask, uint8 [H, W], as `preprocessing` renders its image: uint8 [S, S], void where there is no image."""
    side = preprocessing.image_size
    if preprocessing.crop_mode == "squash":
        return resized_mask(mask, [side, side])
    if preprocessing.crop_mode == "border":
        longer = max(mask.shape[-2:])
        return padded_mask(
            resized_mask(mask, [max(round(length * side / longer), 1) for length in mask.shape[-2:]]), side
        )
    shorter = resized_mask(mask, [preprocessing.resize])
    height, width = shorter.shape[-2:]
    view: Tensor = F.center_crop(padded_mask(shorter, max(height, width, side)), [side, side])
    return view


def padded_mask(mask: Tensor, side: int) -> Tensor:
    """Return a mask of at most `side` pixels a side in the middle of a square of void, uint8 [side, side]."""
    height, width = mask.shape[-2:]
    top, left = (side - height) // 2, (side - width) // 2
    padded: Tensor = F.pad(tv_tensors.Mask(mask), [left, top, side - width - left, side - height - top], fill=VOID)
    return padded


def resized_mask(mask: Tensor, size: list[int]) -> Tensor:
    """Return a mask in another size, each pixel the nearest by its center, as smooth resizing has the image's.

    torchvision's own way with masks takes the nearest to a corner, which lies half a pixel aside.
    """
    image = mask.as_subclass(Tensor)[None]
    resized: Tensor = tv_tensors.Mask(F.resize(image, size, interpolation=InterpolationMode.NEAREST_EXACT)[0])
    return resized

"""Masks in the views in which their images are cached: the same renderings, made anew from the same seed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.data.augment.mask_view import mask_view, seen_part
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import resize_mask
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import Extractor


class CachedMaskViews:
    """How the masks of a manifest lie in the views of their images.

    Of training images there are augmented views; the others are seen in the evaluation view alone, also where one of
    several is asked for.

    Parameters
    ----------
    extractor : Extractor
        Whose views these are.
    manifest : Manifest
    """

    def __init__(self, extractor: Extractor, manifest: Manifest) -> None:
        self._extractor = extractor
        self._locations, self._keys, self._splits = manifest.locations, manifest.keys, manifest.splits

    @property
    def count(self) -> int:
        """How many views there are of an image, the evaluation view, 0, among them."""
        return self._extractor.options.views

    def rendered(self, place: int, mask: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        """Return the mask of a sample, uint8 [H, W], as its image is seen in a view.

        Raises
        ------
        UnreadableImageError
            If the image, whose size as it is decoded says where its parts go, cannot be read any more.
        """
        preprocessing = self._extractor.backbone.preprocessing
        if view == 0 or self._splits[place] != "train":
            if preprocessing.crop_mode == "squash":  # which is what thinning does
                return mask
            return np.asarray(mask_view(preprocessing, torch.from_numpy(mask)).as_subclass(Tensor).numpy())
        image = read_image(self._locations[place], self._extractor.reading)
        height, width = image.shape[-2:]
        placed = torch.from_numpy(resize_mask(mask, (height, width)))
        return np.asarray(self._extractor.mask_of_view(image, placed, self._keys[place], view).numpy())

    def seen(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the part of logits of the evaluation view, [classes, h, w], that a mask of this shape lies over."""
        return seen_part(logits, self._extractor.backbone.preprocessing, shape)

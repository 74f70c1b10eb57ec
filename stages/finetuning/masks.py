"""Images with their masks: augmented together in training, in the evaluation view in validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.data.augment.mask_view import mask_view
from stages.data.augment.policy import Augmentation
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import PLAIN, Reading
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import MaskClasses, read_mask, resize_mask
from stages.data.sources.open_image import read_image
from stages.runtime.seeding import seed_from


class AugmentedMasks(Dataset[tuple[Tensor, Tensor]]):
    """Training images and their masks by (epoch, place): the rendering depends on seed, epoch and key alone.

    Parameters
    ----------
    manifest
    label_size
        Height and width in which masks are given: by nearest, of what is rendered.
    augment, seed, reading
        As of :class:`~stages.finetuning.image_batches.AugmentedImages`, whose images these are.
    """

    def __init__(
        self,
        manifest: Manifest,
        label_size: tuple[int, int],
        augment: Augmentation,
        seed: int,
        reading: Reading = PLAIN,
    ) -> None:
        self.locations, self.keys, self.masks = manifest.locations, manifest.keys, manifest.target_texts
        self.classes, self.label_size = classes_of(manifest), label_size
        self.augment, self.seed, self.reading = augment, seed, reading

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = position
        seed = seed_from(self.seed, epoch, self.keys[index], bits=60)
        image = read_image(self.locations[index], self.reading)
        height, width = image.shape[-2:]
        mask = resize_mask(read_mask(self.masks[index], self.classes), (height, width))
        rendered, rendered_mask = self.augment.with_mask(image, torch.from_numpy(mask), seed)
        return rendered, torch.from_numpy(resize_mask(rendered_mask.numpy(), self.label_size))


def mask_views(manifest: Manifest, indices: Sequence[int], preprocessing: Preprocessing) -> Tensor:
    """Return the masks of samples as their images are seen in the evaluation view, uint8 [b, S, S]."""
    texts, classes = manifest.target_texts, classes_of(manifest)
    masks = (torch.from_numpy(read_mask(texts[index], classes)) for index in indices)
    return torch.stack([mask_view(preprocessing, mask).as_subclass(Tensor) for mask in masks])


def classes_of(manifest: Manifest) -> MaskClasses:
    """Return what the values in the masks of a manifest stand for."""
    assert manifest.mask_classes is not None
    return manifest.mask_classes

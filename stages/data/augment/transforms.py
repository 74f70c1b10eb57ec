"""The single transforms that augmentations are made of, torchvision's where it has them, each with its words.

All but the crops take the square, uint8 [3, S, S], that the first of a list leaves, and return one. How they are put
together is in ``augmentation``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stages.config.augment_grammar import AugmentOp
from stages.data.images.preprocessing import Preprocessing

_SMOOTH = v2.InterpolationMode.BILINEAR


class Transform(NamedTuple):
    """What is done to an image, in words, and what does it; the words are part of a cache's fingerprint."""

    description: str
    apply: Callable[[Tensor], Tensor]


def transform_of(step: AugmentOp, preprocessing: Preprocessing) -> Transform:
    """Return the transform that one step of ``--augment`` names, for images that are prepared like `preprocessing`."""
    name, number = step.name, step.argument or 0.0
    size, fill = preprocessing.image_size, mean_color(preprocessing)
    match name:
        case "crop":
            return random_crop(preprocessing, number, longest=4 / 3)
        case "shift":
            moved = v2.RandomAffine(0, translate=(number, number), interpolation=_SMOOTH, fill=fill)
            return Transform(f"shift by up to {number:.0%} of the side", moved)
        case "zoom":
            scaled = v2.RandomAffine(0, scale=(1 - number, 1 + number), interpolation=_SMOOTH, fill=fill)
            return Transform(f"up to {number:.0%} larger or smaller", scaled)
        case "flip":
            return FLIP
        case "vflip":
            return Transform("vertical flip, half of the time", v2.RandomVerticalFlip())
        case "rot90":
            return Transform("rotation by a multiple of 90 degrees", _quarter_turns)
        case "rotation":
            return Transform(f"rotation by up to {number:g} degrees", v2.RandomRotation(number, _SMOOTH, fill=fill))
        case "perspective":
            seen = v2.RandomPerspective(number, interpolation=_SMOOTH, fill=fill)
            return Transform(f"perspective distorted by up to {number:.0%}, half of the time", seen)
        case "colorjitter":
            # no change of hue: it takes longer than all the rest together
            jitter = v2.ColorJitter(brightness=number, contrast=number, saturation=number)
            return Transform(f"brightness, contrast and saturation changed by up to {number:.0%}", jitter)
        case "grayscale":
            return Transform(f"grey, {_probability_text(number)}", v2.RandomGrayscale(number))
        case "blur":
            # three standard deviations, as far as a border mirrored outwards reaches
            kernel = 2 * min(math.ceil(3 * number), size - 1) + 1
            blurred = v2.GaussianBlur(kernel, (0.1, number))
            return Transform(f"Gaussian blur, standard deviation 0.1 to {number:g} px", blurred)
        case "trivialaugment":
            one = v2.TrivialAugmentWide(interpolation=_SMOOTH, fill=fill)
            return Transform("TrivialAugment: one of 14 operations at a random strength", one)
        case "randaugment":
            two = v2.RandAugment(magnitude=int(number), interpolation=_SMOOTH, fill=fill)
            return Transform(f"RandAugment: two of 14 operations at magnitude {number:g} of 30", two)
        case "autoaugment":
            policy = v2.AutoAugment(interpolation=_SMOOTH, fill=fill)
            return Transform("AutoAugment: one of the 25 pairs of operations found for ImageNet", policy)
        case "randomerasing":
            erased = v2.RandomErasing(number, scale=(0.02, 0.2), value=fill)
            return Transform(f"a rectangle of 2% to 20% of the area erased, {_probability_text(number)}", erased)
    raise ValueError(f"no transform is called {name}")


def random_crop(preprocessing: Preprocessing, smallest: float, longest: float) -> Transform:
    """Return the random resized crop: at least the share `smallest` of the area, sides up to `longest` : 1."""
    size, mode = preprocessing.image_size, preprocessing.interpolation_mode
    return Transform(
        f"random crop of {smallest:.0%} to 100% of it, sides up to {longest:.2g}:1, resized to {size} px",
        v2.RandomResizedCrop(size, scale=(smallest, 1), ratio=(1 / longest, longest), interpolation=mode),
    )


def evaluation_view(preprocessing: Preprocessing) -> Transform:
    """Return what lists without a crop begin with."""
    return Transform(f"resized and cropped to the middle {preprocessing.image_size} px", preprocessing.render)


def mean_color(preprocessing: Preprocessing) -> list[int]:
    """Return the colour that fills what a rendering leaves open."""
    return [round(255 * level) for level in preprocessing.mean]


def _central_square(image: Tensor) -> Tensor:
    side = min(image.shape[-2:])
    square: Tensor = F.center_crop(image, [side, side])
    return square


FLIP = Transform("horizontal flip, half of the time", v2.RandomHorizontalFlip())
CENTRAL_SQUARE = Transform("central square", _central_square)


def _quarter_turns(image: Tensor) -> Tensor:
    return torch.rot90(image, int(torch.randint(4, (1,))), (1, 2))


def _probability_text(probability: float) -> str:
    named = {0.25: "a quarter of the time", 0.5: "half of the time", 1.0: "always"}
    return named.get(probability, f"{probability:.0%} of the time")

"""The single transforms that augmentations are made of, torchvision's where it has them, each with its words.

All but the crops take the square, uint8 [3, S, S], that the first of a list leaves, and return one. How they are put
together is in ``policy``. A transform is a function under :func:`register_op`, here or in a file of its own.

As torchvision's own (v2) they take an image, or an image and its mask, a ``tv_tensors.Mask``, and return as many: what
moves pixels moves those of the mask to the same places, by nearest, and what is left open there is void; what changes
colors leaves the mask as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stages.config.augment_grammar import OPS, AugmentOp, OpKind
from stages.config.image_size import size_in_words
from stages.data.augment.mask_view import VOID, mask_view, padded_mask, resized_mask
from stages.data.augment.plan import PlannedImage
from stages.data.images.preprocessing import Preprocessing

_SMOOTH = v2.InterpolationMode.BILINEAR

_MOVING = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})
"""The operations of torchvision's policies that move pixels, by its names for them."""


class Transform(NamedTuple):
    """What is done to an image, in words, and what does it; the words are part of a cache's fingerprint."""

    description: str
    apply: Callable[..., Any]


MakeTransform = Callable[[float, Preprocessing], Transform]
"""The number in parentheses, or 0 where there is none, and how images are prepared -> the transform."""


def register_op(
    name: str,
    *,
    argument: tuple[str, float, float, float] | tuple[str, float, float, float, bool] | None = None,
    takes_photograph: bool = False,
    help_text: str = "",
) -> Callable[[MakeTransform], MakeTransform]:
    """Make a function one of the transforms that ``--augment`` can name.

    Parameters
    ----------
    name, argument, takes_photograph
        As in :class:`~stages.config.augment_grammar.OpKind`; literals in our own files.
    help_text
        What it does, in a few words; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If another function is registered under the name.
    """
    return OPS.decorator(OpKind(name, argument, takes_photograph, help_text=help_text))


def transform_of(step: AugmentOp, preprocessing: Preprocessing) -> Transform:
    """Return the transform that one step of ``--augment`` names, for images that are prepared like `preprocessing`."""
    make: MakeTransform = OPS.get(step.name)
    return make(step.argument or 0.0, preprocessing)


@register_op(
    "crop", argument=("the smallest share of the photograph that is kept", 0.5, 0.01, 1), takes_photograph=True
)
def crop(smallest: float, preprocessing: Preprocessing) -> Transform:
    """Random resized crop."""
    return random_crop(preprocessing, smallest, longest=4 / 3)


@register_op("shift", argument=("the largest shift, as a share of the side,", 0.1, 0, 1))
def shift(share: float, preprocessing: Preprocessing) -> Transform:
    """Random translation."""
    moved = v2.RandomAffine(0, translate=(share, share), interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform(f"shift by up to {share:.0%} of the side", moved)


@register_op("zoom", argument=("how much larger or smaller at most, as a share,", 0.2, 0, 0.9))
def zoom(share: float, preprocessing: Preprocessing) -> Transform:
    """Random scale."""
    scaled = v2.RandomAffine(0, scale=(1 - share, 1 + share), interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform(f"up to {share:.0%} larger or smaller", scaled)


@register_op("flip")
def flip(_: float, preprocessing: Preprocessing) -> Transform:
    """Horizontal flip."""
    return FLIP


@register_op("vflip")
def vflip(_: float, preprocessing: Preprocessing) -> Transform:
    """Vertical flip."""
    return Transform("vertical flip, half of the time", v2.RandomVerticalFlip())


@register_op("rot90")
def rot90(_: float, preprocessing: Preprocessing) -> Transform:
    """Rotation by a multiple of 90 degrees."""
    rows, columns = preprocessing.shape
    if rows != columns:  # what is turned by 90 degrees would be of another shape
        return Transform("rotation by 180 degrees, half of the time", _half_turn)
    return Transform("rotation by a multiple of 90 degrees", _quarter_turns)


@register_op("rotation", argument=("the largest angle, in degrees,", 10, 0, 180))
def rotation(degrees: float, preprocessing: Preprocessing) -> Transform:
    """Random rotation."""
    turned = v2.RandomRotation(degrees, _SMOOTH, fill=_fill(preprocessing))
    return Transform(f"rotation by up to {degrees:g} degrees", turned)


@register_op("perspective", argument=("the distortion, as a share of half the side,", 0.2, 0, 1))
def perspective(share: float, preprocessing: Preprocessing) -> Transform:
    """Random perspective."""
    distorted = v2.RandomPerspective(share, interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform(f"perspective distorted by up to {share:.0%}, half of the time", distorted)


@register_op(
    "colorjitter", argument=("the largest change of brightness, contrast and saturation, as a share,", 0.2, 0, 1)
)
def colorjitter(share: float, preprocessing: Preprocessing) -> Transform:
    """Random brightness, contrast and saturation."""
    # no change of hue: it takes longer than all the rest together
    jitter = _ColorJitter(brightness=share, contrast=share, saturation=share)
    return Transform(f"brightness, contrast and saturation changed by up to {share:.0%}", jitter)


@register_op("grayscale", argument=("how often, as a probability,", 0.1, 0, 1))
def grayscale(probability: float, preprocessing: Preprocessing) -> Transform:
    """Gray, now and then."""
    return Transform(f"grey, {_probability_text(probability)}", v2.RandomGrayscale(probability))


@register_op("blur", argument=("the largest standard deviation, in pixels,", 2, 0.1, 5))
def blur(deviation: float, preprocessing: Preprocessing) -> Transform:
    """Gaussian blur."""
    # three standard deviations, as far as a border mirrored outwards reaches
    kernel = 2 * min(math.ceil(3 * deviation), min(preprocessing.shape) - 1) + 1
    blurred = v2.GaussianBlur(kernel, (0.1, deviation))
    return Transform(f"Gaussian blur, standard deviation 0.1 to {deviation:g} px", blurred)


@register_op("trivialaugment")
def trivialaugment(_: float, preprocessing: Preprocessing) -> Transform:
    """TrivialAugment."""
    operation = _TrivialAugment(interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform("TrivialAugment: one of 14 operations at a random strength", operation)


@register_op("randaugment", argument=("the magnitude", 9, 0, 30, True))
def randaugment(magnitude: float, preprocessing: Preprocessing) -> Transform:
    """RandAugment."""
    operations = _RandAugment(magnitude=int(magnitude), interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform(f"RandAugment: two of 14 operations at magnitude {magnitude:g} of 30", operations)


@register_op("autoaugment")
def autoaugment(_: float, preprocessing: Preprocessing) -> Transform:
    """AutoAugment."""
    policy = _AutoAugment(interpolation=_SMOOTH, fill=_fill(preprocessing))
    return Transform("AutoAugment: one of the 25 pairs of operations found for ImageNet", policy)


@register_op("randomerasing", argument=("how often, as a probability,", 0.25, 0, 1))
def randomerasing(probability: float, preprocessing: Preprocessing) -> Transform:
    """Random erasing."""
    erased = v2.RandomErasing(probability, scale=(0.02, 0.2), value=preprocessing.mean_color)
    return Transform(
        f"a rectangle of 2% to 20% of the area erased, {_probability_text(probability)}", _ImageAlone(erased)
    )


def random_crop(preprocessing: Preprocessing, smallest: float, longest: float) -> Transform:
    """Return the random resized crop: at least the share `smallest` of the area, sides up to `longest` : 1.

    Where the network sees all of an image, it is a part of that, as squashed or with as much border as the whole.
    """
    (rows, columns), mode = preprocessing.shape, preprocessing.interpolation_mode
    # a squashed image is a square before it is brought to the shape that the network sees
    aspect = 1.0 if preprocessing.crop_mode == "squash" else columns / rows
    ratio = (aspect / longest, aspect * longest)
    cropped = v2.RandomResizedCrop((rows, columns), scale=(smallest, 1), ratio=ratio, interpolation=mode)
    part = f"{smallest:.0%} to 100% of it, sides up to {longest:.2g}:1, resized to {preprocessing.image_size} px"
    if preprocessing.crop_mode == "squash":
        return Transform(f"squashed to a square, random crop of {part}", _SquashedCrop(cropped))
    if preprocessing.crop_mode == "border":
        return Transform(f"made a square by a border, random crop of {part}", _BorderedCrop(cropped, preprocessing))
    return Transform(f"random crop of {part}", cropped)


def evaluation_view(preprocessing: Preprocessing) -> Transform:
    """Return what lists without a crop begin with."""
    words = {
        "center": f"resized and cropped to the middle {preprocessing.image_size} px",
        "squash": f"squashed to {size_in_words(preprocessing.image_size)} px",
        "border": f"resized to {preprocessing.image_size} px, with a border",
    }
    return Transform(words[preprocessing.crop_mode], _EvaluationView(preprocessing))


def _fill(preprocessing: Preprocessing) -> dict[type | str, Any]:
    """Return what fills the places that are left open: of images the mean color, of masks void."""
    return {tv_tensors.Mask: VOID, "others": preprocessing.mean_color}


def _all_of(rendered: list[Tensor]) -> Any:
    """Return as torchvision's transforms do: one tensor as it is, several as a tuple."""
    return rendered[0] if len(rendered) == 1 else tuple(rendered)


@dataclass(frozen=True)
class _ImageAlone:
    """A transform that concerns the image, whatever comes with it."""

    transform: Callable[[Tensor], Tensor]

    def __call__(self, image: Tensor, *masks: Tensor) -> Any:
        return _all_of([self.transform(image), *masks])


@dataclass(frozen=True)
class _EvaluationView:
    """What the network sees of an image where nothing is random, and the same of a mask."""

    preprocessing: Preprocessing

    def __call__(self, image: Tensor, *masks: Tensor) -> Any:
        if isinstance(image, PlannedImage):
            view: Tensor = image.evaluation_view(self.preprocessing.shape)
        else:
            view = self.preprocessing.render(image)
        return _all_of([view, *(mask_view(self.preprocessing, mask) for mask in masks)])


class _ColorJitter(v2.ColorJitter):  # type: ignore[misc]
    """Changes of color in an order that is drawn, as numbers: to compare those of a tensor takes a dozen operations."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what torchvision's draws."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        return {**params, "fn_idx": params["fn_idx"].tolist()}


class _MovesMasks:
    """What one of torchvision's policies does to the image, its operations that move pixels do to masks, too.

    Its own way with a mask is to refuse it.
    """

    masks: list[Tensor]

    def forward(self, *inputs: Any) -> Any:
        """Render an image, or an image and its masks."""
        image, *masks = inputs
        policy: Any = copy.copy(self)  # which is shared by threads
        policy.masks = masks
        rendered = super(_MovesMasks, policy).forward(image)  # type: ignore[misc]
        return _all_of([rendered, *policy.masks])

    def _apply_image_or_video_transform(
        self, image: Tensor, transform_id: str, magnitude: float, interpolation: Any, fill: Mapping[Any, Any]
    ) -> Tensor:
        operation = super()._apply_image_or_video_transform  # type: ignore[misc]
        if transform_id in _MOVING:
            self.masks = [operation(mask, transform_id, magnitude, interpolation, fill) for mask in self.masks]
        rendered: Tensor = operation(image, transform_id, magnitude, interpolation, fill)
        return rendered


class _TrivialAugment(_MovesMasks, v2.TrivialAugmentWide):  # type: ignore[misc]
    """TrivialAugment (Mueller and Hutter 2021), of masks too."""


class _RandAugment(_MovesMasks, v2.RandAugment):  # type: ignore[misc]
    """RandAugment (Cubuk et al. 2020), of masks too."""


class _AutoAugment(_MovesMasks, v2.AutoAugment):  # type: ignore[misc]
    """AutoAugment (Cubuk et al. 2019), of masks too."""


@dataclass(frozen=True)
class _SquashedCrop:
    """A crop of an image as if that had been made square; resized once, so that nothing is blurred twice."""

    crop: v2.RandomResizedCrop

    def __call__(self, image: Tensor, *masks: Tensor) -> Any:
        height, width = image.shape[-2:]
        side = max(height, width)
        box = self.crop.make_params([torch.empty(1).expand(1, side, side)])
        top, rows = box["top"] * height // side, max(box["height"] * height // side, 1)
        left, columns = box["left"] * width // side, max(box["width"] * width // side, 1)
        view = F.resized_crop(
            image, top, left, rows, columns, self.crop.size, interpolation=self.crop.interpolation, antialias=True
        )
        boxes = (mask[..., top : top + rows, left : left + columns] for mask in masks)
        return _all_of([view, *(resized_mask(part, list(self.crop.size)) for part in boxes)])


@dataclass(frozen=True)
class _BorderedCrop:
    """A crop of an image with what brings it to the proportions of what the network sees."""

    crop: v2.RandomResizedCrop
    preprocessing: Preprocessing

    def __call__(self, image: Tensor, *masks: Tensor) -> Any:
        height, width = image.shape[-2:]
        rows, columns = self.preprocessing.shape
        # as small as holds the image in the proportions of what the network sees
        shape = (max(height, -(-width * rows // columns)), max(width, -(-height * columns // rows)))
        return self.crop(self.preprocessing.padded(image, shape), *(padded_mask(mask, shape) for mask in masks))


def central_part(preprocessing: Preprocessing) -> Transform:
    """Return the largest middle part in the proportions of what the network sees: a square, as a rule."""
    rows, columns = preprocessing.shape
    words = "central square" if rows == columns else f"central part in the proportions {rows}:{columns}"
    return Transform(words, _CentralPart(rows, columns))


@dataclass(frozen=True)
class _CentralPart:
    rows: int
    columns: int

    def __call__(self, image: Tensor, *masks: Tensor) -> Any:
        height, width = image.shape[-2:]
        size = [min(height, width * self.rows // self.columns), min(width, height * self.columns // self.rows)]
        size = [max(length, 1) for length in size]
        return _all_of([F.center_crop(pixels, size) for pixels in (image, *masks)])


FLIP = Transform("horizontal flip, half of the time", v2.RandomHorizontalFlip())

MIRROR = Transform("horizontal flip", v2.RandomHorizontalFlip(p=1.0))
"""Nothing is random in it."""


def _quarter_turns(image: Tensor, *masks: Tensor) -> Any:
    turns = int(torch.randint(4, (1,)))
    return _all_of([torch.rot90(image, turns, (1, 2)), *(_turned(mask, turns) for mask in masks)])


def _half_turn(image: Tensor, *masks: Tensor) -> Any:
    turns = 2 * int(torch.randint(2, (1,)))
    return _all_of([torch.rot90(image, turns, (1, 2)), *(_turned(mask, turns) for mask in masks)])


def _turned(mask: Tensor, turns: int) -> Tensor:
    turned: Tensor = tv_tensors.Mask(torch.rot90(mask, turns, (-2, -1)))
    return turned


def _probability_text(probability: float) -> str:
    names = {0.25: "a quarter of the time", 0.5: "half of the time", 1.0: "always"}
    return names.get(probability, f"{probability:.0%} of the time")

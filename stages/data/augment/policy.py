"""Random renderings of training images: presets, and lists of single transforms.

A rendering depends on the image and a seed alone. The transforms are in ``transforms``, the evaluation view is in
``preprocessing``, the sheet on which a person judges renderings in ``contact_sheet``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors

from stages.config.augment_grammar import OPS, PRESETS, parse_augment
from stages.data.augment.mask_view import mask_view
from stages.data.augment.plan import EVALUATION_VIEW, NotPlannableError, Plan, Step, planned
from stages.data.augment.thread_rng import ThreadGenerator
from stages.data.augment.transforms import (
    FLIP,
    MIRROR,
    Transform,
    central_part,
    evaluation_view,
    random_crop,
    transform_of,
)
from stages.data.images.preprocessing import Preprocessing

_WRITTEN_OUT = {
    "medium": "crop(0.5)+flip+rotation(10)+colorjitter(0.2)",
    "strong": "crop(0.3)+flip+trivialaugment+randomerasing(0.25)",
}
"""The presets that are lists of transforms as anyone can write them."""


MIRRORED = "mirror"
"""What the mirror image of the evaluation view is called, where it is cached as a view."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Random renderings for one network's images; ``augment(image, seed)`` renders.

    Attributes
    ----------
    name : str
        The preset, or the list with all arguments.
    preprocessing : Preprocessing
        Gives size, interpolation, and the mean colour that fills what a rendering leaves open.
    transforms : tuple of Transform
        What is done, in order; nothing for the preset 'none', which renders the evaluation view.
    """

    name: str
    preprocessing: Preprocessing
    transforms: tuple[Transform, ...]

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Return a rendering, uint8 [3, S, S], of a photograph, uint8 [3, H, W].

        The same image and seed give the same pixels, in any thread. torch's generator uses the lower 32 bits of the
        seed.
        """
        if not self.transforms:
            return self.preprocessing.render(image)
        with ThreadGenerator(torch.Generator().manual_seed(seed)):
            for transform in self.transforms:
                image = transform.apply(image)
        return image[None].contiguous(memory_format=torch.channels_last)[0]

    def plan(self, height: int, width: int, seed: int) -> Plan:
        """Return what a rendering of an image of this size and seed consists of, all that is drawn for it included.

        Raises
        ------
        NotPlannableError
            If a transform needs the pixels to know.
        """
        if not self.transforms:
            return ((Step(EVALUATION_VIEW, {}),),)
        with ThreadGenerator(torch.Generator().manual_seed(seed)):
            return planned([transform.apply for transform in self.transforms], height, width)[0]

    def plan_if_possible(self, height: int, width: int, seed: int) -> Plan | None:
        """Return what `plan` does; None where a transform needs the pixels to know."""
        try:
            return self.plan(height, width, seed)
        except NotPlannableError:
            return None

    def plan_with_mask(self, height: int, width: int, mask: Tensor, seed: int) -> tuple[Plan, Tensor]:
        """Return what `plan` does, and the mask, uint8 [height, width], as `with_mask` renders it: uint8 [S, S].

        Raises
        ------
        NotPlannableError
            As `plan`.
        """
        if not self.transforms:
            view = mask_view(self.preprocessing, mask).as_subclass(Tensor)
            return self.plan(height, width, seed), view
        with ThreadGenerator(torch.Generator().manual_seed(seed)):
            plan, placed = planned([transform.apply for transform in self.transforms], height, width, mask)
        assert placed is not None
        return plan, placed

    def with_mask(self, image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return a rendering of a photograph, and of its mask the same places, uint8 [3, S, S] and [S, S].

        The photograph's is the one that it has without a mask. The mask's pixels are taken by nearest, void where the
        photograph is filled up.

        Parameters
        ----------
        image : uint8 [3, H, W]
        mask : uint8 [H, W]
            Of the photograph's size.
        seed : int
        """
        if not self.transforms:
            return self.preprocessing.render(image), mask_view(self.preprocessing, mask).as_subclass(Tensor)
        placed: Tensor = tv_tensors.Mask(mask)
        with ThreadGenerator(torch.Generator().manual_seed(seed)):
            for transform in self.transforms:
                image, placed = transform.apply(image, placed)
        return image[None].contiguous(memory_format=torch.channels_last)[0], placed.as_subclass(Tensor)

    def describe(self) -> list[str]:
        """Return what is done to an image, in words."""
        return [transform.description for transform in self.transforms] or ["nothing: the evaluation view"]


def mirror_view(preprocessing: Preprocessing) -> Augmentation:
    """Return what renders the mirror image of the evaluation view, whatever the seed."""
    return Augmentation(MIRRORED, preprocessing, (evaluation_view(preprocessing), MIRROR))


def augmentation(augment: str, preprocessing: Preprocessing) -> Augmentation:
    """Return the augmentation that ``--augment`` asks for, for images that are prepared like `preprocessing`.

    Parameters
    ----------
    augment : str
        A preset, or a list of transforms as ``crop(0.5)+flip+rotation(15)``. One that does not begin with a crop
        renders changes of the evaluation view.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if augment == "none":
        return Augmentation(augment, preprocessing, ())
    if augment == "light":
        # nearly all of a long photograph is no nearly square crop, and torchvision would always take the middle
        gentle = (random_crop(preprocessing, smallest=0.8, longest=1.1), FLIP)
        first = (central_part(preprocessing),) if preprocessing.crop_mode == "center" else ()
        return Augmentation(augment, preprocessing, (*first, *gentle))
    steps = parse_augment(_WRITTEN_OUT.get(augment, augment))
    transforms = tuple(transform_of(step, preprocessing) for step in steps)
    if not OPS.find(steps[0].name).takes_photograph:
        transforms = (evaluation_view(preprocessing), *transforms)
    name = augment if augment in PRESETS else "+".join(map(str, steps))
    return Augmentation(name, preprocessing, transforms)

"""What a random rendering will do to an image, known before there is the image: from its size and the seed alone.

A GPU renders a batch in few operations, so what is drawn for each image has to be known first. Nothing is drawn in
another way for that: the very transforms that render an image are given one that has a size and no pixels, and what
they would do to it is written down. Where a transform looks at pixels there is no plan, and images are rendered one by
one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F


class Step(NamedTuple):
    """One operation.

    Attributes
    ----------
    name : str
        Of torchvision's function; or ``rot90``, torch's; or ``evaluation_view``, that of the network's preprocessing.
    arguments : dict
        By its names for them, plain values; of ``erase`` the color as a list.
    """

    name: str
    arguments: dict[str, Any]


Plan = tuple[tuple[Step, ...], ...]
"""The operations of each transform, in order; none of one that leaves the image as it is."""

EVALUATION_VIEW = "evaluation_view"
ROT90 = "rot90"


class NotPlannableError(Exception):
    """A transform does what cannot be written down."""


_PIXEL = torch.zeros(1, dtype=torch.uint8)


class PlannedImage(tv_tensors.Image):  # type: ignore[misc]
    """An image that has a size and no pixels, and remembers what was done to it.

    One is made for each operation of each view, so that is to be quick.

    Attributes
    ----------
    steps : tuple of Step
    """

    steps: tuple[Step, ...]
    _shape: torch.Size

    @classmethod
    def of_size(cls, height: int, width: int, steps: tuple[Step, ...] = ()) -> PlannedImage:
        """Return one of a size, [3, H, W]; there is a single number behind it."""
        with torch._C.DisableTorchFunction():  # nothing is drawn here
            image: PlannedImage = _PIXEL.expand(3, height, width).as_subclass(cls)
        image.steps, image._shape = steps, torch.Size((3, height, width))
        return image

    @property
    def shape(self) -> torch.Size:
        """The size, which torchvision asks for many times, without asking torch."""
        return self._shape

    def after(self, name: str, arguments: dict[str, Any], size: Sequence[int]) -> PlannedImage:
        """Return it with one more operation, after which it has this height and width."""
        return type(self).of_size(size[0], size[1], (*self.steps, Step(name, arguments)))

    def evaluation_view(self, shape: tuple[int, int]) -> PlannedImage:
        """Return it as the network sees it where nothing is random."""
        return self.after(EVALUATION_VIEW, {}, shape)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer what an image is asked about its size and type, and refuse what would need its pixels."""
        if func is torch.rot90:
            return _rot90(*args, **(kwargs or {}))
        if func.__name__ not in _ABOUT_AN_IMAGE:
            raise NotPlannableError(f"{func.__name__} of pixels that are not there yet")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _rot90(input: PlannedImage, k: int = 1, dims: Sequence[int] = (0, 1)) -> PlannedImage:
    """Return an image after torch's function, whose names for its arguments these are."""
    if [axis % 3 for axis in dims] != [1, 2]:
        raise NotPlannableError("a rotation that is not of rows into columns")
    size = input.shape[-2:] if k % 2 == 0 else input.shape[:-3:-1]
    return input.after(ROT90, {"turns": k}, size)


_ABOUT_AN_IMAGE = frozenset({"__get__", "as_subclass", "dim", "is_floating_point", "numel", "size"})

_Size = Callable[[PlannedImage, Mapping[str, Any]], Sequence[int]]


def _same(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    return list(image.shape[-2:])


def _turned(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    if arguments["expand"]:
        raise NotPlannableError("a rotation that leaves another size for each angle")
    return _same(image, arguments)


def _sheared(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    _require_numbers(arguments, "shear", 2)
    return _same(image, arguments)


def _seen_from_elsewhere(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    _require_numbers(arguments, "coefficients", 8)
    return _same(image, arguments)


def _blurred(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    _require_numbers(arguments, "kernel_size", 2)
    _require_numbers(arguments, "sigma", 2)
    return _same(image, arguments)


def _erased(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    if len(arguments["v"]) not in (1, image.shape[-3]):
        raise NotPlannableError("another color for each pixel")
    return _same(image, arguments)


def _padded(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    left, top, right, bottom = _require_numbers(arguments, "padding", 4)
    return image.shape[-2] + top + bottom, image.shape[-1] + left + right


def _cropped(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    return _require_numbers(arguments, "output_size", 2)


def _crop_resized(image: PlannedImage, arguments: Mapping[str, Any]) -> Sequence[int]:
    if not arguments["antialias"]:
        raise NotPlannableError("resizing without antialiasing")
    return _require_numbers(arguments, "size", 2)


def _require_numbers(arguments: Mapping[str, Any], name: str, count: int) -> Sequence[int]:
    """Return an argument that is so many numbers, as torchvision's transforms give it; its functions take others."""
    numbers = arguments[name]
    if not isinstance(numbers, Sequence) or len(numbers) != count:
        raise NotPlannableError(f"`{name}` {numbers}")
    return numbers


_SIZES: dict[str, _Size] = {
    **dict.fromkeys(
        (
            "horizontal_flip",
            "vertical_flip",
            "adjust_brightness",
            "adjust_contrast",
            "adjust_saturation",
            "adjust_sharpness",
            "rgb_to_grayscale",
            "posterize",
            "solarize",
            "autocontrast",
            "equalize",
            "invert",
        ),
        _same,
    ),
    "affine": _sheared,
    "perspective": _seen_from_elsewhere,
    "gaussian_blur": _blurred,
    "erase": _erased,
    "rotate": _turned,
    "resized_crop": _crop_resized,
    "center_crop": _cropped,
    "pad": _padded,
}
"""torchvision's functions that are written down, and the size that each leaves."""


def _register(name: str, size: _Size) -> None:
    functional = getattr(F, name)
    names = list(inspect.signature(functional).parameters)[1:]

    def write_down(image: PlannedImage, *args: Any, **kwargs: Any) -> PlannedImage:
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        plain = {
            key: value.flatten().tolist() if isinstance(value, Tensor) else value for key, value in arguments.items()
        }
        return image.after(name, plain, size(image, plain))

    F.register_kernel(functional, PlannedImage)(write_down)


for _name, _size in _SIZES.items():
    _register(_name, _size)


def planned(
    transforms: Sequence[Callable[..., Any]], height: int, width: int, mask: Tensor | None = None
) -> tuple[Plan, Tensor | None]:
    """Return what transforms do to an image of a size, drawing what they draw in the generator of this thread.

    And its mask, uint8 [height, width], where there is one, after the same.

    Raises
    ------
    NotPlannableError
        If that depends on its pixels, or is none of the operations that can be written down.
    """
    image: Any = PlannedImage.of_size(height, width)
    placed = None if mask is None else tv_tensors.Mask(mask)
    plan: list[tuple[Step, ...]] = []
    for transform in transforms:
        before = len(image.steps)
        if placed is None:
            image = transform(image)
        else:
            image, placed = transform(image, placed)
        if not isinstance(image, PlannedImage) or not hasattr(image, "steps"):
            raise NotPlannableError("an operation that is not written down")
        plan.append(image.steps[before:])
    return tuple(plan), None if placed is None else placed.as_subclass(Tensor)

"""Random renderings of a batch in few operations: what was planned for each image, done to all of them together.

An operation is done at once to all images of a batch that it is planned for, each with its own numbers. What moves
pixels by a matrix is one sampling of the batch, what changes colors is arithmetic with a factor for each image; what
has no such form here is done by torchvision, at once to those whose numbers are equal.

On one device a rendering has the same bits whatever images are with it: nothing is summed in an order that depends on
how many there are.

The arithmetic is torchvision's for single images, but for the weights of resizing, which there have 16 bits. So the
renderings of single images differ by a gray level here and there, and by what changes of contrast make of one. What has
a threshold (solarize, posterize, equalize) makes of that level what it makes of two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

from stages.data.augment.plan import EVALUATION_VIEW, ROT90, Plan, Step
from stages.data.images.batched_render import render_batch, resize_batch
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rendered_alone import rendered_alone
from stages.runtime.device import uploaded

Arguments = Sequence[Mapping[str, Any]]
"""Of one operation, for each image of a batch."""

_WHITE = 255.0

_RESIZING = frozenset({"resized_crop", EVALUATION_VIEW})
"""What leaves an image in the size that it is given, whatever size it had."""

_FRAMING = _RESIZING | {"center_crop", "pad"}
"""What is done to a photograph until it has the size that the network sees; after the last of it all have that."""


def render_planned(images: Sequence[Tensor], plans: Sequence[Plan], preprocessing: Preprocessing) -> Tensor:
    """Return the renderings that were planned for images.

    Parameters
    ----------
    images : sequence of uint8 Tensor [3, H, W]
        On one device, each of the size that its plan is for.
    plans : sequence of Plan
        Of one augmentation.
    preprocessing : Preprocessing
        The augmentation's.

    Returns
    -------
    uint8 Tensor [b, 3, S, S]
        In channels_last, on the device.
    """
    framed, rest = zip(*map(_divided, plans), strict=True)
    batch = _framed(images, framed, preprocessing)
    for of_transform in zip(*rest, strict=True):
        for of_round in zip_longest(*of_transform):
            batch = _done(batch, of_round)
    return batch.contiguous(memory_format=torch.channels_last)


def _divided(plan: Plan) -> tuple[list[Step], list[tuple[Step, ...]]]:
    """Return what brings a photograph to the size of its rendering, and what each transform does after that."""
    steps = [(number, step) for number, of_transform in enumerate(plan) for step in of_transform]
    framing = [place for place, (_, step) in enumerate(steps) if step.name in _FRAMING]
    end = framing[-1] + 1 if framing else len(steps)
    rest = [tuple(step for number, step in steps[end:] if number == transform) for transform in range(len(plan))]
    return [step for _, step in steps[:end]], rest


def _framed(images: Sequence[Tensor], steps: Sequence[Sequence[Step]], preprocessing: Preprocessing) -> Tensor:
    """Return photographs in the size of renderings, [b, 3, S, S]: cropped and resized, or as the network sees them."""
    kinds: dict[Any, list[tuple[int, Tensor]]] = defaultdict(list)
    for place, (image, of_image) in enumerate(zip(images, steps, strict=True)):
        at_once = of_image[-1] if of_image and of_image[-1].name in _RESIZING else None
        for step in of_image if at_once is None else of_image[:-1]:
            image = _alone(image, step, preprocessing)
        kind: Any = None if at_once is None else at_once.name
        if kind == "resized_crop":
            box = of_image[-1].arguments
            image = image[:, box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
            kind = (*box["size"],), _interpolation(of_image[-1])
        kinds[kind].append((place, image))
    framed = [_resized([image for _, image in of_kind], kind, preprocessing) for kind, of_kind in kinds.items()]
    if len(framed) == 1:
        return framed[0]
    places = [place for of_kind in kinds.values() for place, _ in of_kind]
    return torch.cat(framed)[uploaded(torch.tensor(places).argsort(), images[0].device)]


def _alone(image: Tensor, step: Step, preprocessing: Preprocessing) -> Tensor:
    """Return an image, whose size is its own as yet, after an operation."""
    if step.name == EVALUATION_VIEW:
        return rendered_alone(preprocessing.render, image)
    return _operation(step)(image[None], [step])[0]


def _resized(images: Sequence[Tensor], kind: Any, preprocessing: Preprocessing) -> Tensor:
    """Return images in one size: of a kind None they have it, else it is the evaluation view, or a size and how."""
    if kind is None:
        return torch.stack(list(images))
    return render_batch(images, preprocessing) if kind == EVALUATION_VIEW else resize_batch(images, *kind)


def _interpolation(step: Step) -> str:
    """Return the name of an interpolation: from torchvision's constant for it, or one as it is."""
    mode = step.arguments["interpolation"]
    return str(getattr(mode, "value", mode))


def _done(batch: Tensor, steps: Sequence[Step | None]) -> Tensor:
    """Return a batch after one operation of each image, or none."""
    places: dict[Any, list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        if step is not None:
            places[_kind(step)].append(place)
    changed = batch
    for members in places.values():
        of_members = [step for place in members if (step := steps[place]) is not None]
        operation = _operation(of_members[0])
        if len(members) == len(batch):
            return operation(batch, of_members)
        # pinned and copied beside what the device does: an index that is a list would be waited for
        index = uploaded(torch.tensor(members), batch.device)
        changed = changed.index_copy(0, index, operation(batch.index_select(0, index), of_members))
    return changed


def _kind(step: Step) -> Any:
    """Return what operations that are done together have in common."""
    if step.name in _WARPS:
        return "warp", _interpolation(step), str(step.arguments["fill"])
    if step.name == "gaussian_blur":
        return step.name, str(step.arguments["kernel_size"])
    return step.name if step.name in _OPERATIONS else (step.name, repr(step.arguments))


def _operation(step: Step) -> Callable[[Tensor, Sequence[Step]], Tensor]:
    return _OPERATIONS.get(step.name, _as_torchvision)


def _as_torchvision(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    """Do to a batch what torchvision does, with the same numbers for all of it."""
    if steps[0].name == ROT90:
        return torch.rot90(batch, steps[0].arguments["turns"], (-2, -1))
    # with its channels last, what sharpens would be a convolution of cuDNN's: rounded to TF32, and by how many images
    # there are in another order
    changed: Tensor = getattr(F, steps[0].name)(batch.contiguous(), **steps[0].arguments)
    return changed


def _of_each(numbers: Sequence[float] | NDArray[Any], batch: Tensor) -> Tensor:
    """Return a number of each image, float32 [b, 1, 1, 1] on the device of the batch."""
    return uploaded(torch.tensor(np.asarray(numbers, dtype=np.float32)), batch.device).view(-1, 1, 1, 1)


def _levels(values: Tensor) -> Tensor:
    """Return whole levels; what is between two becomes the lower, as in torchvision's changes of color."""
    return values.clamp_(0, _WHITE).to(torch.uint8)


def _blended(batch: Tensor, other: Tensor, ratios: Sequence[float]) -> Tensor:
    rest = _of_each([1.0 - ratio for ratio in ratios], batch)
    return _levels((batch * _of_each(ratios, batch)).add_(other * rest))


def _gray(batch: Tensor) -> Tensor:
    """Return whole gray levels, float32 [b, 1, S, S], by the weights of ITU-R BT.601."""
    red, green, blue = batch.unbind(dim=1)
    gray: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return gray[:, None]


def _numbers(steps: Sequence[Step], name: str) -> list[float]:
    return [float(step.arguments[name]) for step in steps]


def _brightness(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    return _levels(batch * _of_each(_numbers(steps, "brightness_factor"), batch))


def _contrast(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blended(batch, _mean_gray(batch), _numbers(steps, "contrast_factor"))


def _mean_gray(batch: Tensor) -> Tensor:
    """Return the mean gray level of each image, float32 [b, 1, 1, 1]; of whole levels a sum in 64 bits is exact."""
    return _gray(batch).mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()


def _saturation(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    return _blended(batch, _gray(batch), _numbers(steps, "saturation_factor"))


def _solarize(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    return torch.where(batch >= _of_each(_numbers(steps, "threshold"), batch), 255 - batch, batch)


def _blur(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    """Blur each image by a Gaussian of its own, along columns and then along rows."""
    width, height = steps[0].arguments["kernel_size"]
    padding = [width // 2, width // 2, height // 2, height // 2]
    planes = functional.pad(batch.float(), padding, mode="reflect")
    for axis, size in enumerate((width, height)):
        deviations = np.array([step.arguments["sigma"][axis] for step in steps])
        places = np.arange(size) - (size - 1) / 2
        weights = np.exp(-((places / deviations[:, None]) ** 2) / 2)
        weights /= weights.sum(axis=1, keepdims=True)
        kernels = uploaded(torch.from_numpy(weights.astype(np.float32)), batch.device)
        planes = _summed(planes, kernels, 3 - axis)
    return planes.round_().clamp_(0, _WHITE).to(torch.uint8)


def _summed(planes: Tensor, kernels: Tensor, axis: int) -> Tensor:
    """Return sums along an axis of planes [b, 3, H, W] with weights of each image, [b, taps], one tap after the other.

    A convolution would choose its order by how many images there are.
    """
    length = planes.shape[axis] - kernels.shape[1] + 1
    weights = kernels[:, :, None, None, None]
    sums = planes.narrow(axis, 0, length) * weights[:, 0]
    for tap in range(1, kernels.shape[1]):
        # two steps, as a fused one rounds otherwise on some processors
        sums += planes.narrow(axis, tap, length) * weights[:, tap]
    return sums


def _erase(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    top, left, height, width = (_of_each(_numbers(steps, name), batch) for name in "ijhw")
    rows, columns = (torch.arange(batch.shape[axis], device=batch.device) for axis in (2, 3))
    rows, columns = rows.view(1, 1, -1, 1), columns.view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    colors = torch.tensor([step.arguments["v"] for step in steps], dtype=torch.float32).to(torch.uint8)
    return torch.where(inside, uploaded(colors, batch.device)[:, :, None, None], batch)


def _warp(batch: Tensor, steps: Sequence[Step]) -> Tensor:
    """Take the pixels of each image from where its own projective map says, and its fill from outside.

    A map is a matrix M, [3, 3]: the pixel at c = (x, y, 1), counted from the middle of an image, is taken from
    (M[0] c / M[2] c, M[1] c / M[2] c), where the image lies between -1 and 1.
    """
    height, width = batch.shape[-2:]
    matrices = np.stack([_WARPS[step.name](step.arguments, height, width) for step in steps])
    maps = uploaded(torch.from_numpy(matrices.astype(np.float32)), batch.device)
    columns, rows = (
        torch.linspace((1 - size) / 2, (size - 1) / 2, size, device=batch.device) for size in (width, height)
    )
    # no matrix product: beside a network that computes in tf32 those round their factors, which are places here
    of_columns, of_rows, constant = maps[..., None, None].unbind(2)
    taken_from = of_columns * columns + of_rows * rows[:, None] + constant
    grid = (taken_from[:, :2] / taken_from[:, 2:]).permute(0, 2, 3, 1)
    levels = batch.float()
    inside = levels.new_ones((len(batch), 1, height, width))
    sampled = functional.grid_sample(
        torch.cat([levels, inside], dim=1),
        grid,
        mode=_interpolation(steps[0]),
        padding_mode="zeros",
        align_corners=False,
    )
    levels, inside = sampled[:, :-1], sampled[:, -1:]
    color = steps[0].arguments["fill"]
    if color is not None:
        fill = uploaded(torch.tensor(color, dtype=torch.float32), batch.device).view(1, -1, 1, 1)
        levels = (levels - fill) * inside + fill
    return levels.round().clamp_(0, _WHITE).to(torch.uint8)


def _affine_map(arguments: Mapping[str, Any], height: int, width: int) -> NDArray[np.float64]:
    """Return the map of an affine rendering: shear, scale and rotation about a center, then translation."""
    center = arguments["center"]
    about = [0.0, 0.0] if center is None else [center[0] - width / 2, center[1] - height / 2]
    angle = math.radians(arguments["angle"])
    shear_x, shear_y = (math.radians(shear) for shear in arguments["shear"])
    turned = angle - shear_y
    linear = np.array(
        [
            [math.cos(turned), -math.cos(turned) * math.tan(shear_x) - math.sin(angle) * math.cos(shear_y)],
            [math.sin(turned), -math.sin(turned) * math.tan(shear_x) + math.cos(angle) * math.cos(shear_y)],
        ]
    )
    linear *= arguments["scale"] / math.cos(shear_y)
    forward = np.eye(3)
    forward[:2, :2] = linear
    forward[:2, 2] = np.add(about, arguments["translate"]) - linear @ about
    return _between_one_and_minus_one(height, width) @ np.linalg.inv(forward)


def _rotation_map(arguments: Mapping[str, Any], height: int, width: int) -> NDArray[np.float64]:
    """Return the map of a rotation, counter-clockwise."""
    turned = {"angle": -arguments["angle"], "translate": (0, 0), "scale": 1.0, "shear": (0.0, 0.0)}
    return _affine_map({**turned, "center": arguments["center"]}, height, width)


def _perspective_map(arguments: Mapping[str, Any], height: int, width: int) -> NDArray[np.float64]:
    """Return the map of eight coefficients, which are those of places counted from the upper left corner."""
    from_corner = np.array([*arguments["coefficients"], 1.0]).reshape(3, 3)
    to_corner = np.eye(3)
    to_corner[:2, 2] = width / 2, height / 2
    to_middle = np.eye(3)
    to_middle[:2, 2] = -width / 2, -height / 2
    placed: NDArray[np.float64] = _between_one_and_minus_one(height, width) @ to_middle @ from_corner @ to_corner
    return placed


def _between_one_and_minus_one(height: int, width: int) -> NDArray[np.float64]:
    scale: NDArray[np.float64] = np.diag([2 / width, 2 / height, 1.0])
    return scale


_WARPS: dict[str, Callable[[Mapping[str, Any], int, int], NDArray[np.float64]]] = {
    "affine": _affine_map,
    "rotate": _rotation_map,
    "perspective": _perspective_map,
}

_OPERATIONS: dict[str, Callable[[Tensor, Sequence[Step]], Tensor]] = {
    **dict.fromkeys(_WARPS, _warp),
    "adjust_brightness": _brightness,
    "adjust_contrast": _contrast,
    "adjust_saturation": _saturation,
    "erase": _erase,
    "gaussian_blur": _blur,
    "solarize": _solarize,
}
"""What is done to a batch with other numbers for each image."""

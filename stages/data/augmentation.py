"""Random renderings of training images, and the sheet on which a person judges them.

A rendering depends on the image and a seed alone. The evaluation view is in ``preprocessing``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError, suggestion
from stages.data.preprocessing import Preprocessing
from stages.options import Preset

_DRAWS = frozenset(
    {
        torch.rand,
        torch.randn,
        torch.randint,
        torch.randperm,
        torch.normal,
        torch.bernoulli,
        torch.multinomial,
        Tensor.uniform_,
        Tensor.normal_,
        Tensor.random_,
        Tensor.bernoulli_,
        Tensor.exponential_,
    }
)
"""Every way in which torchvision's transforms draw random numbers."""


class _DrawFrom(TorchFunctionMode):
    """Inside, this thread draws its random numbers from one generator.

    torchvision's transforms know the global generator only. Seeding that for each image would disturb whatever else
    draws from it, dropout in another thread for one, and be disturbed by it; a mode concerns its own thread alone.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        extra = {"generator": self.generator} if func in _DRAWS else {}
        return func(*args, **{**(kwargs or {}), **extra})


@dataclass(frozen=True)
class Augmentation:
    """A preset for one network's images; ``augment(image, seed)`` renders.

    Attributes
    ----------
    preset : str
    preprocessing : Preprocessing
        Gives size, interpolation, and the mean colour that fills what a rendering leaves open.
    transforms : tuple of (words, transform)
        What is done, in order; nothing for the preset 'none', which renders the evaluation view.
    """

    preset: str
    preprocessing: Preprocessing
    transforms: tuple[tuple[str, Callable[[Tensor], Tensor]], ...]

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Return a rendering, uint8 [3, S, S], of a photograph, uint8 [3, H, W].

        The same image and seed give the same pixels, in any thread. torch's generator uses the lower 32 bits of the
        seed.
        """
        if not self.transforms:
            return self.preprocessing.render(image)
        with _DrawFrom(torch.Generator().manual_seed(seed)):
            for _, transform in self.transforms:
                image = transform(image)
        return image[None].contiguous(memory_format=torch.channels_last)[0]

    def describe(self) -> list[str]:
        """Return what is done to an image, in words."""
        return [words for words, _ in self.transforms] or ["nothing: the evaluation view"]


def augmentation(preset: str, preprocessing: Preprocessing) -> Augmentation:
    """Return the augmentation called `preset` for images that are prepared like `preprocessing`.

    Raises
    ------
    UsageError
        If there is no such preset.
    """
    known = get_args(Preset)
    if preset not in known:
        raise UsageError(f"--augment {preset} is not one of {', '.join(known)}.{suggestion(preset, known)}")
    size, mode = preprocessing.image_size, preprocessing.interpolation_mode
    fill = [round(255 * level) for level in preprocessing.mean]

    def crop(smallest: float, longest: float) -> tuple[str, v2.Transform]:
        return (
            f"random crop of {smallest:.0%} to 100% of it, sides up to {longest:.2g}:1, resized to {size} px",
            v2.RandomResizedCrop(size, scale=(smallest, 1), ratio=(1 / longest, longest), interpolation=mode),
        )

    flip = ("horizontal flip, half of the time", v2.RandomHorizontalFlip())
    presets: dict[str, tuple[tuple[str, Callable[[Tensor], Tensor]], ...]] = {
        "none": (),
        # nearly all of a long photograph is no nearly square crop, and torchvision would always take the middle
        "light": (("central square", _central_square), crop(0.8, 1.1), flip),
        "medium": (
            crop(0.5, 4 / 3),
            flip,
            ("rotation by up to 10 degrees", v2.RandomRotation(10, v2.InterpolationMode.BILINEAR, fill=fill)),
            # no change of hue: it takes longer than all the rest together
            (
                "brightness, contrast and saturation changed by up to 20%",
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ),
        ),
        "strong": (
            crop(0.3, 4 / 3),
            flip,
            (
                "TrivialAugment: one of 14 operations at a random strength",
                v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=fill),
            ),
            ("a rectangle of 2% to 20% of the area erased, a quarter of the time", _erasing(fill)),
        ),
    }
    return Augmentation(preset, preprocessing, presets[preset])


def _central_square(image: Tensor) -> Tensor:
    side = min(image.shape[-2:])
    square: Tensor = F.center_crop(image, [side, side])
    return square


def _erasing(fill: list[int]) -> v2.RandomErasing:
    return v2.RandomErasing(p=0.25, scale=(0.02, 0.2), value=fill)


def contact_sheet(
    images: Sequence[Tensor], augment: Augmentation, seeds: Sequence[int], path: Path, title: str
) -> None:
    """Write a PNG of what the network sees: a row for each image, its evaluation view first, then one per seed.

    Each row draws its own random numbers from the seeds, as each image does in training.

    Parameters
    ----------
    images : sequence of Tensor
        Photographs, uint8 [3, H, W].
    """
    from matplotlib.figure import Figure  # slow to import, and needed by this sheet alone

    columns = ["evaluation view", *(f"rendering {number}" for number in range(1, len(seeds) + 1))]
    figure = Figure(figsize=(1.6 * len(columns), 1.6 * len(images) + 1.2), dpi=110, layout="constrained")
    words = textwrap.fill("; ".join(augment.describe()), width=20 * len(columns))
    figure.suptitle(f"{title}\n{words}", fontsize=9)
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image in enumerate(images):
        renderings = [augment(image, seed * len(images) + row) for seed in seeds]
        for axes, rendering in zip(grid[row], [augment.preprocessing.render(image), *renderings], strict=True):
            axes.imshow(rendering.permute(1, 2, 0).numpy(), interpolation="none")
            axes.set_axis_off()
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)

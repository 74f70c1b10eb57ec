"""A folder of small photographs that a network can tell apart, made anew for each test that wants one."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"fire": (210, 70, 30), "leaf": (60, 160, 60), "sea": (40, 80, 190)}


def photograph(color: tuple[int, int, int], seed: int, side: int = 80) -> Image.Image:
    """A blurred blob of the colour on a grey ground with noise; never twice the same."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - numbers.uniform(0.35, 0.65, size=(2, 1, 1))
    blob = np.exp(-(x**2 + y**2) / numbers.uniform(0.02, 0.08))[..., None]
    pixels = 110 * (1 - blob) + np.array(color) * blob + numbers.normal(0, 25, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_folder(
    root: Path, per_class: int = 24, classes: tuple[str, ...] = tuple(COLOURS), subsampling: str = "4:2:0"
) -> Path:
    """Make the folder; with a `subsampling` of 4:4:4, in which a GPU decodes the same pixels as a CPU."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            photograph(COLOURS[name], 1000 * number + index).save(
                root / name / f"{index:03}.jpg", quality=92, subsampling=subsampling
            )
    return root

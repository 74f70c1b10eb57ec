"""Tiny images with masks, as people keep them."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_pair(image: Path, mask: Path | None, seed: int, values=(0, 1, 2), size=(12, 16), **options) -> None:
    """Save an image of noise, and a mask of these values, all of which occur, if a place for it is named."""
    generator = np.random.default_rng(seed)
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(image)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        array = generator.permutation(np.resize(np.array(values, np.uint8), size[0] * size[1])).reshape(size)
        Image.fromarray(array).save(mask, **options)


def save_folder(root: Path, count: int = 8, images: str = "images", masks: str = "masks", ending: str = ".png") -> Path:
    """Save images/0.jpg, masks/0.png and so on."""
    for number in range(count):
        save_pair(root / images / f"{number}.jpg", root / masks / f"{number}{ending}", number)
    return root

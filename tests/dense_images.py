"""Small images of a block before a ground, with masks: what a class for each pixel is learned from in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[30, 60, 200], [220, 40, 40], [40, 160, 60]], np.uint8)
"""Of sky, block and ground."""


def draw(seed: int, shape: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 [h, w, 3], and its mask, uint8 [h, w]."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    left = rng.integers(4, shape[1] - 24)
    mask[8:30, left : left + 22], mask[40:] = 1, 2
    noisy = COLORS[mask] + rng.normal(0, 10, (*shape, 3))
    return noisy.clip(0, 255).astype(np.uint8), mask


def make_dense_folder(root: Path, counts: dict[str, int] | None = None) -> Path:
    """Save ``images/train/train0.png``, ``masks/train/train0.png`` and so on, a rim of each mask void; return `root`."""
    for split, count in (counts or {"train": 8, "val": 6, "test": 6}).items():
        for number in range(count):
            image, mask = draw(1000 * len(split) + number)
            mask[:3] = 255
            for folder, pixels in (("images", image), ("masks", mask)):
                path = root / folder / split / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root

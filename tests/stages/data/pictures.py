"""Small real images, and folders of them, for the tests of this room."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colourful image in which no two corners look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def pixels(image: Image.Image) -> np.ndarray:
    """What Pillow shows of an image, [3, H, W]."""
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def write_images(root: Path, counts: dict[str, int], first_seed: int = 0) -> list[Path]:
    """Write `counts[folder]` different 8 x 8 PNG images into each folder below `root`."""
    paths = []
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            paths.append(root / folder / f"{index:03}.png")
            photograph(8, 8, seed=first_seed + len(paths)).save(paths[-1])
    return paths

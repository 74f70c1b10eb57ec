"""The evaluation view as matrices: the pixels of `render`, and of every rendering of test-time augmentation."""

import random

import pytest
import torch

from stages.data.augment import tta as rendered
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rendering_module import RenderingModule


def photograph(height, width, seed):
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return pixels.permute(2, 0, 1)  # in memory as decoders leave them


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "nearest-exact"])
def test_its_pixels_are_those_of_the_pipeline(crop_mode, interpolation):
    numbers = random.Random(f"{crop_mode} {interpolation}")
    differing = total = 0
    for tta in ("none", "flip", "crops") * 5:
        size, resize = numbers.choice([32, 48, "32x48", "40x24"]), numbers.choice([20, 32, 40, 72])
        preprocessing = Preprocessing(size, resize, interpolation, crop_mode=crop_mode)
        height = numbers.randint(8, 300)
        image = photograph(height, numbers.randint(max(height // 20, 1), min(300, 20 * height)), total)
        expected = rendered.TestTimeAugmentation(preprocessing, tta)(image)
        pixels = torch.cat(RenderingModule(preprocessing, tta).pixels(image[None]))
        difference = (pixels - expected.float()).abs()
        assert difference.max() <= 1  # a weight that lies between two of torch's is rounded the other way, rarely
        differing, total = differing + int((difference > 0).sum()), total + difference.numel()
    assert differing <= total / 10_000


def test_images_of_a_batch_may_be_of_unlike_sizes_where_they_say_which():
    preprocessing = Preprocessing(24, 28, crop_mode="border")
    images = [photograph(30, 70, 0), photograph(64, 41, 1)]
    batch = torch.full((2, 3, 64, 70), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        batch[place, :, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([[30, 70], [64, 41]])
    (pixels,) = RenderingModule(preprocessing).pixels(batch, sizes)
    assert torch.equal(pixels, torch.stack([preprocessing.render(image) for image in images]).float())


def test_what_it_gives_is_normalized():
    preprocessing = Preprocessing(24, 28)
    image = photograph(50, 40, 2)
    expected = preprocessing.normalize(preprocessing.render(image)[None])
    assert torch.allclose(RenderingModule(preprocessing)(image[None])[0], expected, atol=1e-6)

"""Evaluation views of many images at once, against those of each alone."""

import math
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cache.errors import DataError
from stages.data.images import batched_render
from stages.data.images.batched_render import render_batch
from stages.data.images.preprocessing import INTERPOLATIONS, Preprocessing

SIZES = [(75, 100), (100, 75), (32, 32), (64, 64), (73, 73), (300, 225), (25, 700), (37, 41), (1, 1), (2, 5), (64, 65)]


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)

    def image(height, width):
        coarse = torch.rand(1, 3, max(height // 7, 2), max(width // 7, 2), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        noise = torch.randint(-20, 20, (3, height, width), generator=generator)
        pixels = (255 * smooth + noise).clamp(0, 255).to(torch.uint8)
        return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as decoders leave them

    return [image(*size) for size in SIZES]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("image_size", "resize"), [(64, 73), (64, 64), ("40x64", 73), (73, 56)])
def test_views_are_those_of_each_image_alone_to_within_levels(images, image_size, resize, interpolation, crop_mode):
    preprocessing = Preprocessing(image_size, resize, interpolation, crop_mode=crop_mode)
    views = render_batch(images, preprocessing)
    expected = torch.stack([preprocessing.render(image) for image in images])
    difference = (views.int() - expected.int()).abs()
    assert views.dtype == torch.uint8
    # torch's weights have 16 bits on a CPU: a level seldom, two hardly ever
    exact = interpolation.startswith("nearest")
    assert difference.max() <= (0 if exact else 2)
    assert difference.float().mean() <= (0 if exact else 0.015)
    assert (difference > 1).float().mean() < 1e-3


@pytest.mark.parametrize("crop_mode", ["center", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_view_is_the_same_whatever_images_are_with_it(images, interpolation, crop_mode, monkeypatch):
    preprocessing = Preprocessing(64, 73, interpolation, crop_mode=crop_mode)
    together = render_batch(images, preprocessing)
    assert torch.equal(torch.cat([render_batch([image], preprocessing) for image in images]), together)
    order = random.Random(0).sample(range(len(images)), len(images))
    assert torch.equal(render_batch([images[place] for place in order], preprocessing), together[order])
    monkeypatch.setattr(batched_render, "_AT_A_TIME", 20_000)  # in several parts
    assert torch.equal(render_batch(images, preprocessing), together)


class Counted(TorchDispatchMode):
    """Counts the operators of which each is a launch on a GPU: all but views."""

    def __init__(self):
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.launches += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_pixel_of_a_sum_takes_three_launches_for_all_images():
    """Of a photograph of 12 megapixels there are 25 along each side."""
    counts = {}
    for size in (64, 640):
        with Counted() as counted:
            render_batch([torch.zeros(3, size, size, dtype=torch.uint8)] * 4, Preprocessing(64, 64))
        counts[size] = counted.launches
    taps = {size: math.ceil(2 * size / 64) + 1 for size in counts}
    # and one to add up its weight
    assert counts[640] - counts[64] <= 2 * (3 + 1) * (taps[640] - taps[64])


def test_more_channels_than_three_are_rendered_too(images):
    preprocessing = Preprocessing(32, 36, mean=(0.5,) * 5, std=(0.2,) * 5)
    wide = [torch.cat([image, image[:2].flip(0)]) for image in images[:4]]
    views = render_batch(wide, preprocessing)
    assert views.shape == (4, 5, 32, 32)
    assert torch.equal(views[:, 3:], views[:, [1, 0]])


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(DataError, match="300000 x 1 pixels are too long"):
        render_batch([torch.zeros(3, 1, 300_000, dtype=torch.uint8)], Preprocessing(224, 256))

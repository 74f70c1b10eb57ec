"""Renderings of a batch: those of single images, whatever is with them, on a device that is not waited for."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stages.data.augment.batched import _gray, _mean_gray, _summed, render_planned
from stages.data.augment.policy import Augmentation, augmentation
from stages.data.augment.transforms import FLIP, Transform, evaluation_view, random_crop
from stages.data.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(48, 56)
EVERY = {
    **dict.fromkeys(("none", "light", "flip", "vflip", "rot90", "shift(0.3)", "zoom(0.5)", "rotation(180)"), 1),
    **dict.fromkeys(("perspective(0.8)", "grayscale(0.5)", "blur(3)", "randomerasing(0.9)"), 1),
    # each of three changes makes nearly two levels of one
    "medium": 4,
    "colorjitter(0.8)": 8,
    "crop(0.1)+flip+rot90+rotation+colorjitter+blur+randomerasing": 4,
    # these have thresholds
    **dict.fromkeys(("strong", "randaugment(20)", "autoaugment", "trivialaugment"), 255),
}
"""By how many gray levels a pixel may differ at most."""


def photographs(count=9):
    """Images of many sizes with edges, gradients and noise."""
    generator = torch.Generator().manual_seed(3)
    images = []
    for number in range(count):
        size = [70 + 9 * number, 130 - 8 * number]
        coarse = 255 * F.resize(torch.rand(3, 6, 6, generator=generator), size, antialias=True)
        images.append((coarse + 6 * torch.randn(3, *size, generator=generator)).clamp(0, 255).to(torch.uint8))
    return images


IMAGES = photographs()


def renderings(policy, images, seeds, device="cpu"):
    plans = [policy.plan(*image.shape[-2:], seed) for image, seed in zip(images, seeds, strict=True)]
    return render_planned([image.to(device) for image in images], plans, policy.preprocessing)


def off_by(policy, device="cpu", repetitions=4, unwanted="nothing"):
    """Return by how many gray levels pixels differ from those of single renderings on the CPU."""
    differences = []
    for repetition in range(repetitions):
        seeds = [
            next(
                seed
                for seed in range(1000 * number + repetition, 10**6)
                if unwanted not in str(policy.plan(9, 9, seed))
            )
            for number in range(len(IMAGES))
        ]
        batch = renderings(policy, IMAGES, seeds, device).cpu()
        alone = torch.stack([policy(image, seed) for image, seed in zip(IMAGES, seeds, strict=True)])
        differences.append((batch.int() - alone.int()).abs())
    return torch.stack(differences)


@pytest.mark.parametrize(("augment", "most"), EVERY.items())
def test_a_batch_is_rendered_as_its_images_are(augment, most):
    """Resized in floating point: another level in one of a hundred pixels, and what later operations make of that."""
    found = off_by(augmentation(augment, PREPROCESSING))
    assert found.max() <= most
    assert (found > 1).float().mean() < (0.005 if most <= 8 else 0.03)
    assert (found > 0).float().mean() < 0.03


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
@pytest.mark.parametrize("augment", ["none", "medium", "flip+rotation"])
def test_other_ways_to_see_an_image_are_rendered_as_they_are(crop_mode, augment):
    preprocessing = replace(PREPROCESSING, crop_mode=crop_mode, image_size="40x60")
    assert off_by(augmentation(augment, preprocessing)).max() <= 4


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("augment", EVERY)
def test_a_plan_with_a_mask_is_the_plan_and_the_mask_is_as_rendered_with_pixels(augment, crop_mode):
    policy = augmentation(augment, replace(PREPROCESSING, crop_mode=crop_mode))
    generator = torch.Generator().manual_seed(1)
    for seed, image in enumerate(IMAGES):
        height, width = image.shape[-2:]
        mask = torch.randint(0, 4, (height, width), generator=generator, dtype=torch.uint8)
        plan, placed = policy.plan_with_mask(height, width, mask, seed)
        assert str(plan) == str(policy.plan(height, width, seed))
        assert torch.equal(placed, policy.with_mask(image, mask, seed)[1])
        assert type(placed) is torch.Tensor


CROP = random_crop(PREPROCESSING, 0.5, 4 / 3)
OF_ONES_OWN = {
    "torchvision's own way to interpolate": (CROP, Transform("", v2.RandomRotation(30))),
    "functions with little said": (CROP, Transform("", lambda image: F.rotate(image, 30.0))),
    "turned before the crop": (Transform("", v2.RandomRotation(20, v2.InterpolationMode.BILINEAR)), CROP),
    "erased, turned by 90 degrees and padded before the crop": (
        Transform("", v2.RandomErasing(1.0)),
        Transform("", lambda image: torch.rot90(image, 1, (1, 2))),
        Transform("", v2.Pad([1, 2, 3, 4])),
        CROP,
    ),
    "cropped a second time, now and then": (CROP, FLIP, Transform("", v2.RandomApply([CROP.apply])), FLIP),
    "cropped to another size first": (
        Transform("", v2.RandomResizedCrop((60, 70))),
        Transform("", v2.CenterCrop((48, 56))),
    ),
    "the evaluation view, and a part of it": (evaluation_view(PREPROCESSING), CROP),
}


def test_what_torchvision_does_is_done_plane_by_plane(monkeypatch):
    """With channels last, cuDNN would convolve what is sharpened, in TF32 and in an order that depends on the batch."""
    sharpen, given = F.adjust_sharpness, []
    transforms = evaluation_view(PREPROCESSING), Transform("", v2.RandomAdjustSharpness(2, p=1))
    policy = Augmentation("own", PREPROCESSING, transforms)
    plans = [policy.plan(*image.shape[-2:], seed) for seed, image in enumerate(IMAGES)]
    monkeypatch.setattr(F, "adjust_sharpness", lambda batch, **factor: given.append(batch) or sharpen(batch, **factor))
    render_planned(IMAGES, plans, PREPROCESSING)
    assert [batch.is_contiguous() for batch in given if batch.ndim == 4 and len(batch) > 1] == [True]


@pytest.mark.parametrize("transforms", OF_ONES_OWN.values(), ids=OF_ONES_OWN)
def test_transforms_of_ones_own_are_rendered_as_they_are(transforms):
    found = off_by(Augmentation("own", PREPROCESSING, transforms))
    assert (found > 1).float().mean() < 0.005


def test_photographs_that_have_the_size_already_are_left_as_they_are():
    images = [image[:, :48, :56] for image in IMAGES]
    assert torch.equal(render_planned(images, [((),)] * len(images), PREPROCESSING), torch.stack(images))


@pytest.mark.parametrize("augment", EVERY)
@pytest.mark.parametrize("preprocessing", [PREPROCESSING, Preprocessing(320, 352)], ids=["small", "large"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_rendering_has_the_same_bits_whatever_is_with_it(augment, preprocessing, device):
    """So that rows in a cache are a function of image and view alone."""
    policy, seeds = augmentation(augment, preprocessing), list(range(len(IMAGES)))
    whole = renderings(policy, IMAGES, seeds, device)
    parts = torch.cat(
        [renderings(policy, IMAGES[part], seeds[part], device) for part in (slice(0, 1), slice(1, 4), slice(4, 9))]
    )
    assert torch.equal(whole, parts)
    order = [4, 0, 8, 3, 1, 7, 5, 2, 6]
    turned = renderings(policy, [IMAGES[place] for place in order], [seeds[place] for place in order], device)
    assert torch.equal(turned, whole[order])
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert whole.dtype == torch.uint8


def test_what_is_summed_over_an_image_does_not_depend_on_the_order():
    """A GPU sums the pixels of few images in another order than those of many."""
    levels = torch.randint(0, 256, (2, 3, 1500, 2000), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact = _gray(levels).to(torch.int64).sum(dim=(1, 2, 3)).double() / (1500 * 2000)
    assert torch.equal(_mean_gray(levels).flatten(), exact.float())
    planes, kernels = torch.rand(2, 3, 9, 20), torch.rand(2, 5)
    for axis in (2, 3):
        moved, sums = planes.movedim(axis, -1).numpy(), 0
        length = moved.shape[-1] - 4
        for tap in range(5):
            sums = sums + moved[..., tap : tap + length] * kernels[:, tap].numpy()[:, None, None, None]
        assert torch.equal(_summed(planes, kernels, axis).movedim(axis, -1), torch.from_numpy(sums))


def test_renderings_on_a_gpu_are_not_waited_for(pretended_cuda):
    policy = augmentation("crop+flip+rotation+perspective+shift+colorjitter+grayscale+blur+vflip+rot90", PREPROCESSING)
    seeds = list(range(len(IMAGES)))
    plans = [policy.plan(*image.shape[-2:], seed) for image, seed in zip(IMAGES, seeds, strict=True)]
    there = [image.to("cuda") for image in IMAGES]
    before = pretended_cuda.synchronizations
    batch = render_planned(there, plans, PREPROCESSING)
    assert pretended_cuda.synchronizations == before
    assert batch.device.type == "cuda"
    # a GPU resizes in floating point
    found = (batch.cpu().int() - renderings(policy, IMAGES, seeds).int()).abs()
    assert found.max() <= 6
    assert (found > 1).float().mean() < 0.01


@pytest.mark.parametrize("augment", ["strong", "randaugment(20)", "autoaugment"])
@pytest.mark.usefixtures("gpu")
def test_the_operations_of_the_policies_are_done_on_a_gpu(augment):
    """But for equalize, which torchvision does in a way that the pretended GPU does not know."""
    found = off_by(augmentation(augment, PREPROCESSING), "cuda", repetitions=6, unwanted="equalize")
    assert (found > 3).float().mean() < 0.004
    assert (found > 0).float().mean() < 0.2

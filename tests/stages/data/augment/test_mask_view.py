"""An image and its mask are augmented together: what moves moves in both, what colors leaves the mask as it is."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from stages.config.augment_grammar import OPS
from stages.data.augment.mask_view import VOID, mask_view, padded_mask
from stages.data.augment.policy import augmentation
from stages.data.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(48, 56, "bilinear")
MASK = torch.arange(8, dtype=torch.uint8).view(2, 4).repeat_interleave(48, 0).repeat_interleave(24, 1)
IMAGE = (MASK.float() * 30 + 20).round().to(torch.uint8).repeat(3, 1, 1)  # each class has a level of its own
COLORING = ("colorjitter", "grayscale", "blur", "randomerasing")
POLICIES = ("trivialaugment", "randaugment", "autoaugment")
MOVING = tuple(name for name in OPS.declared if name not in (*COLORING, *POLICIES))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("augment", ["none", "light", "medium", "strong", *OPS.declared])
def test_the_image_is_rendered_as_it_is_without_a_mask(augment, mode):
    policy = augmentation(augment, PREPROCESSING.with_crop_mode(mode))
    for seed in range(4):
        image, mask = policy.with_mask(IMAGE[:, :80], MASK[:80], seed)
        assert torch.equal(image, policy(IMAGE[:, :80], seed))
        assert (mask.shape, mask.dtype, type(mask)) == ((48, 48), torch.uint8, torch.Tensor)
        assert set(mask.unique().tolist()) <= {*range(8), VOID}


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("augment", ["none", "light", *MOVING])
def test_what_moves_the_image_moves_the_mask_to_the_same_places(augment, mode):
    policy = augmentation(augment, PREPROCESSING.with_crop_mode(mode))
    for seed in range(8):
        image, mask = policy.with_mask(IMAGE[:, :80], MASK[:80], seed)
        known = mask != VOID
        shown = (image[0].float() - 20) / 30
        # at edges of classes the image is smooth and the mask is not
        assert ((shown - mask).abs() < 0.25)[known].float().mean() > 0.8


@pytest.mark.parametrize("augment", COLORING)
def test_what_colors_the_image_leaves_the_mask_as_it_is(augment):
    policy = augmentation(augment, PREPROCESSING)
    for seed in range(4):
        assert torch.equal(policy.with_mask(IMAGE, MASK, seed)[1], mask_view(PREPROCESSING, MASK))


@pytest.mark.parametrize("augment", POLICIES)
def test_a_policy_moves_the_mask_where_it_moves_the_image_and_nowhere_else(augment):
    policy, still = augmentation(augment, PREPROCESSING), mask_view(PREPROCESSING, MASK)
    moved = 0
    for seed in range(40):
        image, mask = policy.with_mask(IMAGE, MASK, seed)
        if not torch.equal(mask, still):
            moved += 1
            assert not torch.equal(image, PREPROCESSING.render(IMAGE))
    assert 4 < moved < 36


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("augment", ["none", "light", "strong", *MOVING])
def test_what_is_no_square_is_rendered_to_its_own_rows_and_columns(augment, mode):
    policy = augmentation(augment, PREPROCESSING.with_crop_mode(mode).with_size("36x54"))
    for seed in range(4):
        image, mask = policy.with_mask(IMAGE, MASK, seed)
        assert torch.equal(image, policy(IMAGE, seed))
        assert image.shape[1:] == mask.shape == (36, 54)
        if augment in ("none", "light", "crop", "flip", "rot90"):
            shown = (image[0].float() - 20) / 30
            assert ((shown - mask).abs() < 0.25)[mask != VOID].float().mean() > 0.8


def test_of_a_turned_mask_the_corners_are_void():
    _, mask = augmentation("rotation(45)", PREPROCESSING).with_mask(IMAGE, MASK, 1)
    assert mask[0, 0] == mask[-1, -1] == VOID
    assert mask[24, 24] != VOID


def test_beside_an_image_with_a_border_the_mask_is_void():
    view = mask_view(PREPROCESSING.with_crop_mode("border"), MASK[:48])
    assert (view == VOID).sum() == 48 * 24
    assert torch.equal(view[12:36], F.resize(MASK[None, :48], [24, 48], F.InterpolationMode.NEAREST_EXACT)[0])
    assert (padded_mask(MASK[:3, :3], (5, 5)) == VOID).sum() == 25 - 9


def test_a_masks_pixels_are_the_nearest_to_the_centers_of_the_images():
    edges = torch.zeros(99, 99, dtype=torch.uint8)
    edges[33:66, 33:66] = 1
    view = mask_view(Preprocessing(33, 33, crop_mode="squash"), edges)
    assert torch.equal(view, view.flip(0))
    assert torch.equal(view, view.flip(1))
    assert view[16].sum() == 11

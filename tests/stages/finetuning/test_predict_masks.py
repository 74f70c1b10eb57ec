"""Masks of images of any size come out at that size, to the pixel, whole or tile by tile."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import PLAIN, Reading
from stages.extraction.engine import get_engine
from stages.extraction.full_batches import FullBatches
from stages.finetuning.predict_masks import iter_masks
from stages.finetuning.transfer_model import FrozenPart, TrainableTop, TransferModel
from stages.tasks.tiles import Tiling

COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class NearestColor(nn.Module):
    """A network that knows the class of each pixel by its color, at the size of what it is shown."""

    def __init__(self):
        super().__init__()
        self.colors = nn.Parameter(torch.from_numpy(COLORS).float(), requires_grad=False)

    def forward(self, images):
        return -torch.cdist(images.flatten(2).mT, self.colors[None]).mT.unflatten(2, images.shape[2:])


def network(side, crop_mode="squash", reading=PLAIN):
    preprocessing = Preprocessing(side, side, "bilinear", (0.0,) * 3, (1 / 255,) * 3, crop_mode)
    device = torch.device("cpu")
    extractor = SimpleNamespace(
        backbone=SimpleNamespace(preprocessing=preprocessing),
        reading=reading,
        reading_in_full=PLAIN,
        run_batches=lambda requests, compute, count: get_engine("cores", device)(
            requests, compute, device, 4, 2, count
        ),
        launched=lambda *steps, images: FullBatches(*steps, device=device, size=None, recorded=False),
    )
    model = TrainableTop(nn.Identity(), nn.Identity(), NearestColor())
    return extractor, TransferModel(preprocessing.normalize, lambda images: images, model, FrozenPart(None))


def blocks(height, width, seed):
    """Return a mask of patches of 7 pixels."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, len(COLORS), (-(-height // 7), -(-width // 7)), dtype=np.uint8)
    return patches.repeat(7, 0).repeat(7, 1)[:height, :width]


@pytest.fixture
def images(tmp_path):
    masks = [blocks(*shape, seed) for seed, shape in enumerate([(37, 51), (16, 16), (9, 40), (64, 33), (5, 5)])]
    paths = [tmp_path / f"{number}.png" for number in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(COLORS[mask]).save(path)
    return [str(path) for path in paths], masks


@pytest.mark.parametrize("tiling", [Tiling(16, 16, 4), Tiling(16, 16, 0)])
def test_tiles_bring_back_masks_of_any_size_to_the_pixel(images, tiling):
    locations, masks = images
    predicted = list(iter_masks(*network(16), locations, tiling))
    assert [answer.place for answer in predicted] == [*range(len(masks))]
    for answer, mask in zip(predicted, masks, strict=True):
        assert answer.mask.dtype == np.uint8
        assert np.array_equal(answer.mask, mask)


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_whole_images_come_back_at_their_size_and_in_their_place(images, crop_mode):
    locations, masks = images
    for answer, mask in zip(iter_masks(*network(64, crop_mode), locations), masks, strict=True):
        assert answer.mask.shape == mask.shape
        # where patches meet, what was resized lies between two colors
        assert (answer.mask == mask).mean() > 0.75


def test_a_turned_photograph_gets_the_mask_of_what_a_viewer_shows(tmp_path):
    mask = blocks(24, 16, 1)
    stored = Image.fromarray(np.rot90(COLORS[mask]).copy())
    exif = stored.getexif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    stored.save(tmp_path / "turned.png", exif=exif)
    (answer,) = iter_masks(*network(16), [str(tmp_path / "turned.png")], Tiling(16, 16, 2))
    assert np.array_equal(answer.mask, mask)


def test_a_photograph_decoded_at_a_reduced_scale_gets_a_mask_of_its_full_size(tmp_path):
    Image.fromarray(COLORS[np.zeros((128, 160), np.uint8)]).save(tmp_path / "large.jpg")
    (answer,) = iter_masks(*network(16, reading=Reading(shorter_side=16)), [str(tmp_path / "large.jpg")])
    assert answer.mask.shape == (128, 160)


def test_probabilities_are_of_every_class_at_the_images_size_and_lead_to_the_mask(images):
    locations, masks = images
    for answer, mask in zip(
        iter_masks(*network(16), locations, Tiling(16, 16, 4), probabilities=True), masks, strict=True
    ):
        assert (answer.probabilities.dtype, answer.probabilities.shape) == (np.float16, (4, *mask.shape))
        assert np.array_equal(answer.probabilities.argmax(0), mask)
        np.testing.assert_allclose(answer.probabilities.astype(float).sum(0), 1, atol=2e-3)


def test_an_image_that_cannot_be_read_is_said_and_ends_nothing(images, tmp_path):
    locations, masks = images
    (tmp_path / "bad.png").write_bytes(b"no image")
    for tiling in (None, Tiling(16, 16, 4)):
        answers = list(iter_masks(*network(16), [locations[1], str(tmp_path / "bad.png"), locations[1]], tiling))
        assert isinstance(answers[1].mask, str)
        assert [answer.place for answer in answers] == [0, 1, 2]
        assert np.array_equal(answers[2].mask, masks[1])

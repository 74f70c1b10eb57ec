import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.augment.contact_sheet import contact_sheet
from stages.data.augment.mixup import MixupCutmix
from stages.data.augment.policy import augmentation
from stages.data.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(48, 56)


def colored(height=60, width=60):
    """A red, a green and a blue photograph."""
    images = [torch.zeros((3, height, width), dtype=torch.uint8) for _ in range(3)]
    for image, channel in zip(images, range(3), strict=True):
        image[channel] = 255
    return images


def drawn(path, images, augment="light", seeds=range(3), mixing=None):
    contact_sheet(images, augmentation(augment, PREPROCESSING), seeds, path, "What the network sees", mixing)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def panels(sheet, row_color):
    """Start and end of each run of columns that holds a colour."""
    columns = np.flatnonzero((sheet == row_color).all(axis=2).sum(axis=0) > 20)
    return np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)


def test_a_row_for_each_photograph_with_itself_its_evaluation_view_and_its_renderings(tmp_path):
    sheet = drawn(tmp_path / "new folder" / "sheet.png", colored())
    tops = []
    for channel in range(3):
        color = [255 * (channel == other) for other in range(3)]
        rows, _ = np.nonzero((sheet == color).all(axis=2))
        tops.append(rows.min())
        assert len(panels(sheet, color)) == 1 + 1 + 3
    assert tops == sorted(tops)


def test_the_photograph_is_shown_whole_before_anything_is_cut_off(tmp_path):
    image = torch.zeros((3, 60, 180), dtype=torch.uint8)
    image[0] = 255
    image[:, :, 160:] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]  # outside of the central square
    sheet = drawn(tmp_path / "sheet.png", [image], "none", seeds=[0])
    blue = (sheet == [0, 0, 255]).all(axis=2)
    assert blue.sum() > 100
    assert np.flatnonzero(blue.sum(axis=0)).max() < sheet.shape[1] / 3


@pytest.mark.parametrize(("mixup", "cutmix", "columns"), [(0.4, 0, 2), (0, 1, 2), (0.4, 1, 4)])
def test_mixtures_are_the_last_columns(tmp_path, mixup, cutmix, columns):
    images = colored()
    plain = drawn(tmp_path / "plain.png", images)
    sheet = drawn(tmp_path / "mixed.png", images, mixing=MixupCutmix(mixup, cutmix, layout="nhwc"))
    wider = (sheet.shape[1] - plain.shape[1]) / (1.35 * 130)
    assert wider == pytest.approx(columns + 0.15, abs=0.02)
    block = sheet[:, plain.shape[1] :]
    figure = (block.max(axis=2) < 250) & (np.sort(block, axis=2)[..., 1] > 5) & (block.min(axis=2) == 0)
    assert (figure.sum() > 500) == (mixup > 0)  # both rows' colours in one place
    if not cutmix:
        assert len(panels(sheet, [255, 0, 0])) == 1 + 1 + 3  # what stands before the mixtures is all there
    reds = (block == [255, 0, 0]).all(axis=2)
    if cutmix:
        rows = np.flatnonzero(reds.any(axis=1))
        assert np.ptp(rows) > 150  # the red of the first row stands in the second too

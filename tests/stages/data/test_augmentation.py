import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import UsageError
from stages.data import Preprocessing, augmentation, contact_sheet
from tests.stages.data.pictures import photograph, pixels

PREPROCESSING = Preprocessing(48, 56, "bicubic")
PRESETS = ("none", "light", "medium", "strong")
RANDOM = PRESETS[1:]
PHOTO = torch.from_numpy(pixels(photograph(90, 70)).copy())


@pytest.mark.parametrize("preset", PRESETS)
def test_renderings_have_the_networks_size(preset):
    augment = augmentation(preset, PREPROCESSING)
    for size in [(90, 70), (20, 30), (300, 50)]:
        rendering = augment(torch.from_numpy(pixels(photograph(*size)).copy()), 1)
        assert rendering.dtype == torch.uint8
        assert rendering.shape == (3, 48, 48)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_seed_alone_decides(preset):
    augment = augmentation(preset, PREPROCESSING)
    original = PHOTO.clone()
    for seed in range(25):
        torch.manual_seed(seed * 7)
        first = augment(PHOTO, seed)
        torch.rand(seed)
        assert torch.equal(first, augmentation(preset, PREPROCESSING)(PHOTO, seed))
    assert torch.equal(PHOTO, original)


@pytest.mark.parametrize("preset", RANDOM)
def test_seeds_give_different_renderings(preset):
    augment = augmentation(preset, PREPROCESSING)
    assert len({augment(PHOTO, seed).numpy().tobytes() for seed in range(40)}) > 35


@pytest.mark.parametrize("preset", PRESETS)
def test_the_global_random_state_is_left_alone(preset):
    augment = augmentation(preset, PREPROCESSING)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for seed in range(80):  # enough for every operation of TrivialAugment
        augment(PHOTO, seed)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("preset", RANDOM)
def test_threads_do_not_disturb_each_other(preset):
    augment = augmentation(preset, PREPROCESSING)
    expected = [augment(PHOTO, seed) for seed in range(40)]
    stop = threading.Event()

    def draw():  # as dropout does in the training thread
        while not stop.is_set():
            torch.rand(3)

    other = threading.Thread(target=draw)
    other.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            renderings = list(pool.map(lambda seed: augment(PHOTO, seed), range(40)))
    finally:
        stop.set()
        other.join()
    assert all(torch.equal(one, two) for one, two in zip(renderings, expected, strict=True))


def test_none_is_the_evaluation_view():
    assert torch.equal(augmentation("none", PREPROCESSING)(PHOTO, 5), PREPROCESSING.render(PHOTO))


def test_presets_go_from_nothing_to_strong():
    """Each moves the picture, on average over seeds, further from its evaluation view than the one before."""
    clean = PREPROCESSING.render(PHOTO).float()
    distances = []
    for preset in PRESETS:
        augment = augmentation(preset, PREPROCESSING)
        distances.append(np.mean([(augment(PHOTO, seed).float() - clean).abs().mean() for seed in range(60)]))
    assert distances == sorted(distances)
    assert distances[0] == 0


def test_light_shifts_and_scales_photographs_of_any_shape():
    augment = augmentation("light", PREPROCESSING)
    across = torch.arange(256, dtype=torch.uint8).repeat(3, 200, 1)[:, :, :240]  # brightness tells the place
    for image in (across, across[:, :110], across.transpose(1, 2)):
        renderings = [augment(image, seed).float() for seed in range(40)]
        assert len({round(one.mean().item()) for one in renderings}) > 3  # it moves
        assert len({round((one.max() - one.min()).item()) for one in renderings}) > 5  # it grows and shrinks


def test_light_flips_and_does_not_colour():
    grey = torch.full((3, 60, 60), 99, dtype=torch.uint8)
    assert augmentation("light", PREPROCESSING)(grey, 1).unique().tolist() == [99]
    half = torch.zeros((3, 60, 60), dtype=torch.uint8)
    half[:, :, 30:] = 255
    augment = augmentation("light", PREPROCESSING)
    sides = [bool(augment(half, seed)[0, 24, 0] > 128) for seed in range(60)]
    assert 15 < sum(sides) < 45


def test_what_a_rendering_leaves_open_has_the_mean_colour():
    black = torch.zeros((3, 60, 60), dtype=torch.uint8)
    augment = augmentation("strong", PREPROCESSING)
    mean = torch.tensor([round(255 * level) for level in PREPROCESSING.mean], dtype=torch.uint8)
    renderings = [augment(black, seed) for seed in range(60)]
    assert any((one == mean[:, None, None]).all(dim=0).any() for one in renderings)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'medium'"):
        augmentation("medum", PREPROCESSING)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_describe_themselves(preset):
    words = augmentation(preset, PREPROCESSING).describe()
    assert words
    assert all(isinstance(one, str) and one for one in words)
    assert ("48 px" in " ".join(words)) == (preset != "none")


def test_contact_sheet_shows_a_row_for_each_image(tmp_path):
    images = [torch.zeros((3, 60, 60), dtype=torch.uint8) for _ in range(3)]
    for image, channel in zip(images, range(3), strict=True):
        image[channel] = 255  # a red, a green and a blue photograph
    path = tmp_path / "new folder" / "sheet.png"
    contact_sheet(images, augmentation("light", PREPROCESSING), range(4), path, "What the network sees")
    sheet = np.asarray(Image.open(path).convert("RGB"))
    height, width, _ = sheet.shape
    tops = []
    for channel in range(3):
        colour = [255 * (channel == other) for other in range(3)]
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        tops.append(rows.min())
        assert rows.size > 0.1 * height * width  # five panels of nearly its third of the sheet
        assert columns.min() < width / 5
        assert columns.max() > width * 4 / 5
    assert tops == sorted(tops)

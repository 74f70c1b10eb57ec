import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.augment_grammar import OPS
from stages.data.augment.policy import augmentation
from stages.data.images.preprocessing import Preprocessing
from tests.stages.data.pictures import photograph, pixels

PREPROCESSING = Preprocessing(48, 56, "bicubic")
PRESETS = ("none", "light", "medium", "strong")
SINGLE = tuple(OPS.declared)
LONG = "crop(0.4)+flip+rot90+rotation(20)+perspective+colorjitter(0.3)+grayscale+blur(1)+randomerasing(0.5)"
RANDOM = (*PRESETS[1:], *SINGLE, LONG)
PHOTO = torch.from_numpy(pixels(photograph(90, 70)).copy())


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("preset", ["none", *RANDOM])
def test_renderings_have_the_networks_size(preset, mode):
    augment = augmentation(preset, PREPROCESSING.with_crop_mode(mode))
    for size in [(90, 70), (20, 30), (300, 50), (1, 3)]:
        rendering = augment(torch.from_numpy(pixels(photograph(*size)).copy()), 1)
        assert rendering.dtype == torch.uint8
        assert rendering.shape == (3, 48, 48)


@pytest.mark.parametrize("preset", ["none", *RANDOM])
def test_the_seed_alone_decides(preset):
    augment = augmentation(preset, PREPROCESSING)
    original = PHOTO.clone()
    for seed in range(25):
        torch.manual_seed(seed * 7)
        first = augment(PHOTO, seed)
        torch.rand(seed)
        assert torch.equal(first, augmentation(preset, PREPROCESSING)(PHOTO, seed))
    assert torch.equal(PHOTO, original)


@pytest.mark.parametrize("preset", [*PRESETS[1:], LONG])
def test_seeds_give_different_renderings(preset):
    augment = augmentation(preset, PREPROCESSING)
    assert len({augment(PHOTO, seed).numpy().tobytes() for seed in range(40)}) > 35


@pytest.mark.parametrize("preset", ["none", *RANDOM])
def test_the_global_random_state_is_left_alone(preset):
    augment = augmentation(preset, PREPROCESSING)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for seed in range(80):  # enough for every operation of TrivialAugment
        augment(PHOTO, seed)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("preset", [*PRESETS[1:], LONG])
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
    assert all(
        torch.equal(rendering, expected_rendering)
        for rendering, expected_rendering in zip(renderings, expected, strict=True)
    )


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
        assert len({round(rendering.mean().item()) for rendering in renderings}) > 3  # it moves
        assert (
            len({round((rendering.max() - rendering.min()).item()) for rendering in renderings}) > 5
        )  # it grows and shrinks


def test_light_flips_and_does_not_color():
    gray = torch.full((3, 60, 60), 99, dtype=torch.uint8)
    assert augmentation("light", PREPROCESSING)(gray, 1).unique().tolist() == [99]
    half = torch.zeros((3, 60, 60), dtype=torch.uint8)
    half[:, :, 30:] = 255
    augment = augmentation("light", PREPROCESSING)
    sides = [bool(augment(half, seed)[0, 24, 0] > 128) for seed in range(60)]
    assert 15 < sum(sides) < 45


def test_what_a_rendering_leaves_open_has_the_mean_color():
    black = torch.zeros((3, 60, 60), dtype=torch.uint8)
    augment = augmentation("strong", PREPROCESSING)
    mean = torch.tensor([round(255 * level) for level in PREPROCESSING.mean], dtype=torch.uint8)
    renderings = [augment(black, seed) for seed in range(60)]
    assert any((rendering == mean[:, None, None]).all(dim=0).any() for rendering in renderings)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'medium'"):
        augmentation("medum", PREPROCESSING)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_describe_themselves(preset):
    descriptions = augmentation(preset, PREPROCESSING).describe()
    assert descriptions
    assert all(isinstance(description, str) and description for description in descriptions)
    assert ("48 px" in " ".join(descriptions)) == (preset != "none")


def renderings(augment, image=PHOTO, seeds=60):
    rendering = augmentation(augment, PREPROCESSING)
    return [rendering(image, seed) for seed in range(seeds)]


def distance(augment):
    """Mean change of a pixel against the evaluation view."""
    clean = PREPROCESSING.render(PHOTO).float()
    return np.mean([(rendering.float() - clean).abs().mean() for rendering in renderings(augment)])


MEAN = torch.tensor([round(255 * level) for level in PREPROCESSING.mean], dtype=torch.uint8)[:, None, None]


def test_the_words_of_presets_stay_as_they_are():
    """They are part of the fingerprint of cached views: other words would leave every such cache unused."""
    crop = "random crop of {}% to 100% of it, sides up to {}:1, resized to 48 px"
    assert augmentation("light", PREPROCESSING).describe() == [
        "central square",
        crop.format(80, "1.1"),
        "horizontal flip, half of the time",
    ]
    assert augmentation("medium", PREPROCESSING).describe() == [
        crop.format(50, "1.3"),
        "horizontal flip, half of the time",
        "rotation by up to 10 degrees",
        "brightness, contrast and saturation changed by up to 20%",
    ]
    assert augmentation("strong", PREPROCESSING).describe() == [
        crop.format(30, "1.3"),
        "horizontal flip, half of the time",
        "TrivialAugment: one of 14 operations at a random strength",
        "a rectangle of 2% to 20% of the area erased, a quarter of the time",
    ]


def test_a_preset_written_out_renders_the_same():
    written_out = renderings("crop(0.5)+flip+rotation(10)+colorjitter(0.2)")
    assert all(torch.equal(rendering, two) for rendering, two in zip(renderings("medium"), written_out, strict=True))


def test_a_list_is_called_by_all_its_arguments():
    assert augmentation("crop + flip+rotation", PREPROCESSING).name == "crop(0.5)+flip+rotation(10)"
    assert augmentation("light", PREPROCESSING).name == "light"


@pytest.mark.parametrize("name", SINGLE)
def test_a_list_without_a_crop_changes_the_evaluation_view(name):
    first = augmentation(name, PREPROCESSING).describe()[0]
    assert (first == "resized and cropped to the middle 48 px") == (name != "crop")


@pytest.mark.parametrize(
    ("augment", "changed"),
    [
        ("flip", [lambda view: view.flip(2)]),
        ("vflip", [lambda view: view.flip(1)]),
        ("rot90", [lambda view, turns=turns: torch.rot90(view, turns, (1, 2)) for turns in (1, 2, 3)]),
    ],
)
def test_mirrors_and_quarter_turns_keep_every_pixel_and_all_occur(augment, changed):
    view = PREPROCESSING.render(PHOTO)
    expected = {rendering.contiguous().numpy().tobytes() for rendering in [view, *(change(view) for change in changed)]}
    assert {rendering.contiguous().numpy().tobytes() for rendering in renderings(augment)} == expected


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ("crop(0.9)", "crop(0.1)"),
        ("shift(0.05)", "shift(0.4)"),
        ("zoom(0.05)", "zoom(0.5)"),
        ("rotation(5)", "rotation(90)"),
        ("perspective(0.1)", "perspective(0.8)"),
        ("colorjitter(0.1)", "colorjitter(0.8)"),
        ("grayscale(0.1)", "grayscale(0.9)"),
        ("blur(1)", "blur(4)"),
        ("randaugment(2)", "randaugment(28)"),
        ("randomerasing(0.1)", "randomerasing(0.9)"),
    ],
)
def test_a_larger_argument_changes_the_image_more(weak, strong):
    """For a crop it is the smaller one: the share that is kept."""
    assert 0 < 1.2 * distance(weak) < distance(strong)


@pytest.mark.parametrize(
    "augment", ["shift(0)", "zoom(0)", "rotation(0)", "colorjitter(0)", "grayscale(0)", "randomerasing(0)"]
)
def test_nothing_is_what_zero_does(augment):
    assert distance(augment) == 0


def test_a_shift_moves_in_every_direction_as_far_as_it_says():
    image = torch.zeros((3, 56, 56), dtype=torch.uint8)
    image[:, 27:29, 27:29] = 255
    centers = np.array(
        [np.argwhere((rendering[0] > 200).numpy()).mean(axis=0) for rendering in renderings("shift(0.25)", image)]
    )
    moved = centers - 23.5
    assert (np.abs(moved).max(axis=0) <= 13).all()
    assert (moved.max(axis=0) > 8).all()
    assert (moved.min(axis=0) < -8).all()


def test_a_zoom_makes_larger_and_smaller():
    image = torch.zeros((3, 56, 56), dtype=torch.uint8)
    image[:, 18:38, 18:38] = 255
    sides = [(rendering[0] > 200).sum().sqrt().item() for rendering in renderings("zoom(0.4)", image)]
    assert 0.55 * 20 < min(sides) < 0.8 * 20
    assert 1.2 * 20 < max(sides) < 1.45 * 20


def test_gray_leaves_no_color_and_blur_no_edges():
    assert all(
        (rendering[0] == rendering[1]).all() and (rendering[0] == rendering[2]).all()
        for rendering in renderings("grayscale(1)")
    )
    edges = [(rendering.float().diff(dim=2).abs().mean()).item() for rendering in renderings("blur(3)")]
    assert max(edges) <= PREPROCESSING.render(PHOTO).float().diff(dim=2).abs().mean()
    assert min(edges) < 0.8 * max(edges)


def test_erasing_paints_a_rectangle_in_the_mean_color():
    black = torch.zeros((3, 60, 60), dtype=torch.uint8)
    for rendering in renderings("randomerasing(1)", black):
        rows, columns = np.nonzero((rendering == MEAN).all(dim=0).numpy())
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert rows.size == area
        assert 0.015 < area / 48**2 < 0.21


@pytest.mark.parametrize("mode", ["squash", "border"])
@pytest.mark.parametrize("preset", ["light", "crop(0.5)", "rotation(1)"])
def test_where_all_of_an_image_is_seen_its_ends_are_in_some_renderings_and_its_shape_is_as_in_testing(preset, mode):
    image = torch.zeros((3, 40, 120), dtype=torch.uint8)
    image[0, :, :12] = 255  # red at the left
    image[1, :, -12:] = 255  # green at the right
    preprocessing = PREPROCESSING.with_crop_mode(mode)
    augment = augmentation(preset, preprocessing)
    renderings = [augment(image, seed) for seed in range(30)]
    for color in range(2):
        others = [2, 1 - color]
        assert any(((view[color] > 200) & (view[others] < 60).all(dim=0)).sum() > 20 for view in renderings)
    black = [(view.amax(dim=0) < 60).any(dim=1).sum().item() for view in renderings]  # rows that hold the photograph
    expected = 48 if mode == "squash" else 16
    assert abs(np.median(black) - expected) <= (0 if mode == "squash" else 8)
    assert augmentation("light", PREPROCESSING).describe() != augmentation("light", preprocessing).describe()

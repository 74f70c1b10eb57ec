import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.images.rgb import UnreadableImageError
from stages.data.masks import mask_targets
from stages.data.masks.mask_classes import MaskClasses, resize_mask
from stages.data.masks.mask_targets import MaskTargets
from stages.data.sources.tiles import tile_location
from stages.tasks.tiles import Box

CLASSES = MaskClasses(("a", "b", "c"), False, ((0, 0), (1, 1), (2, 2), (255, 255)))
SHAPES = [(8, 10), (6, 6), (8, 10), (5, 9)]
GIB = 1 << 30


@pytest.fixture
def masks(tmp_path):
    """Masks of unlike sizes, and where they are."""
    generator = np.random.default_rng(0)
    arrays = [generator.choice(np.array([0, 1, 2, 255], np.uint8), shape) for shape in SHAPES]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    return arrays, [str(tmp_path / f"{number}.png") for number in range(len(arrays))]


@pytest.fixture
def reads(monkeypatch):
    """The locations that were read."""
    read, locations = mask_targets.read_mask, []
    monkeypatch.setattr(
        mask_targets, "read_mask", lambda location, classes: locations.append(location) or read(location, classes)
    )
    return locations


def test_whole_masks_come_in_the_order_asked_for_as_they_are_stored(masks):
    arrays, locations = masks
    targets = MaskTargets(locations, CLASSES, GIB)
    assert len(targets) == 4
    for place, mask in zip([3, 0, 3], targets.full([3, 0, 3]), strict=True):
        assert np.array_equal(mask, arrays[place])


def test_sizes_are_those_of_the_headers_and_no_mask_is_decoded_for_them(masks, reads, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "turned.png", exif=turned)
    box = Box(2, 1, 3, 5)
    targets = MaskTargets([*masks[1], str(tmp_path / "turned.png"), tile_location(masks[1][0], box)], CLASSES, GIB)
    assert targets.shapes([1, 3, 4, 5]) == [SHAPES[1], SHAPES[3], (9, 4), (3, 5)]
    assert targets.shapes([0, 1, 2, 3]) == SHAPES
    assert not reads
    assert [mask.shape for mask in targets.full([4, 5])] == [(9, 4), (3, 5)]


@pytest.mark.parametrize("kept", [0, 2, 4])
def test_thinned_masks_are_the_nearest_pixels_and_are_kept_as_far_as_memory_allows(masks, reads, kept):
    arrays, locations = masks
    targets = MaskTargets(locations, CLASSES, kept * 12)
    expected = np.stack([resize_mask(array, (3, 4)) for array in arrays])
    for order in ([0, 1, 2, 3], [2, 3, 1, 1, 0]):
        assert np.array_equal(targets.thinned(order, (3, 4)), expected[order])
    assert len(reads) == 4 + (4 - kept)


def test_another_size_takes_the_place_of_the_one_before(masks):
    arrays, locations = masks
    targets = MaskTargets(locations, CLASSES, GIB)
    for shape in ((3, 4), (2, 2), (3, 4)):
        assert np.array_equal(targets.thinned([1], shape)[0], resize_mask(arrays[1], shape))


def test_a_mask_that_is_gone_is_named(masks):
    with pytest.raises(UnreadableImageError, match=r"gone\.png: no such file"):
        MaskTargets([*masks[1], "gone.png"], CLASSES, GIB).thinned([4], (2, 2))


class Turned:
    """Views of which each is turned by so many quarters."""

    count = 3

    def rendered(self, place, mask, view):
        return np.ascontiguousarray(np.rot90(mask, view))

    def seen(self, logits, shape):
        return logits[:, : shape[0] // 2]


@pytest.mark.parametrize("kept", [0, 5, 12])
def test_masks_of_views_are_rendered_thinned_and_kept_each_by_itself(masks, reads, kept):
    arrays, locations = masks
    targets = MaskTargets(locations, CLASSES, kept * 12, Turned())
    places, views = np.array([0, 3, 0, 0, 2]), np.array([0, 2, 1, 2, 1])
    expected = np.stack(
        [resize_mask(np.rot90(arrays[place], view), (3, 4)) for place, view in zip(places, views, strict=True)]
    )
    for _ in range(2):
        assert np.array_equal(targets.thinned(places, (3, 4), views), expected)
    assert len(reads) == 5 + (5 - min(kept, 5))
    assert np.array_equal(targets.thinned([0], (3, 4)), expected[:1])
    assert targets.seen(torch.zeros(2, 8, 3), (8, 3)).shape == (2, 4, 3)
    assert MaskTargets(locations, CLASSES, GIB).seen(torch.zeros(2, 8, 3), (8, 3)).shape == (2, 8, 3)

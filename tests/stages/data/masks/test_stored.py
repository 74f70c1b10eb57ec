import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from stages.data.images.rgb import UnreadableImageError
from stages.data.masks.stored import color_name, facts_of_mask, packed, stored_mask

NUMBERS = np.array([[0, 1, 2], [3, 11, 255]], dtype=np.uint8)
COLORS = np.array([[[128, 0, 0], [0, 128, 0]], [[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)


def saved(path, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array, mode)
    image.save(path, **options)
    return str(path)


def test_grey_masks_hold_numbers_of_8_and_of_16_bits(tmp_path):
    for name, dtype in (
        ("eight.png", np.uint8),
        ("deep.png", np.uint16),
        ("deep.tif", np.uint16),
        ("float.tif", np.float32),
    ):
        mask = stored_mask(saved(tmp_path / name, NUMBERS.astype(dtype)))
        assert (mask.values == NUMBERS).all()
        assert not mask.are_colors


def test_palette_masks_hold_their_indices_and_the_colors_of_those_that_occur(tmp_path):
    image = Image.fromarray(np.minimum(NUMBERS, 3), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 9, 9, 9])
    mask = stored_mask(saved(tmp_path / "palette.png", image))
    assert (mask.values == np.minimum(NUMBERS, 3)).all()
    assert {index: color_name(color) for index, color in mask.palette.items()} == {
        0: "#000000",
        1: "#800000",
        2: "#008000",
        3: "#090909",
    }


def test_color_masks_hold_colors_and_greys_saved_as_colors_hold_numbers(tmp_path):
    mask = stored_mask(saved(tmp_path / "color.png", COLORS))
    assert mask.are_colors
    assert mask.values[0, 0] == packed(128, 0, 0)
    with_alpha = np.concatenate([COLORS, np.zeros((2, 2, 1), np.uint8)], axis=2)
    assert (stored_mask(saved(tmp_path / "alpha.png", with_alpha)).values == mask.values).all()
    grey = stored_mask(saved(tmp_path / "grey.png", np.repeat(NUMBERS[..., None], 3, axis=2)))
    assert not grey.are_colors
    assert (grey.values == NUMBERS).all()


def test_black_and_white_is_0_and_255_however_few_bits_a_program_saved_it_in(tmp_path):
    truth = np.array([[0, 255]], dtype=np.uint8)
    one_bit = stored_mask(saved(tmp_path / "one.png", Image.fromarray(truth).convert("1")))
    assert (one_bit.values == truth).all()


def test_a_jpeg_is_known_to_smear(tmp_path):
    assert stored_mask(saved(tmp_path / "mask.jpg", NUMBERS)).is_lossy
    assert not stored_mask(saved(tmp_path / "mask.png", NUMBERS)).is_lossy


def test_masks_of_sbd_are_read_from_matlab_files(tmp_path):
    content = np.zeros((1,), dtype=[("Segmentation", object)])
    content["Segmentation"][0] = NUMBERS
    savemat(tmp_path / "2008_000002.mat", {"GTcls": content})
    assert (stored_mask(str(tmp_path / "2008_000002.mat")).values == NUMBERS).all()


def test_a_survey_counts_the_pixels_of_each_value(tmp_path):
    facts = facts_of_mask(stored_mask(saved(tmp_path / "mask.png", NUMBERS)))
    assert facts.shape == (2, 3)
    assert facts.counts == {0: 1, 1: 1, 2: 1, 3: 1, 11: 1, 255: 1}
    colors = facts_of_mask(stored_mask(saved(tmp_path / "color.png", np.concatenate([COLORS, COLORS]))))
    assert colors.counts[packed(0, 128, 0)] == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "the file is empty"), (b"%PDF-1.4 ...", "PDF"), (b"\x89PNG\r\n\x1a\nx", "")],
)
def test_a_mask_that_cannot_be_read_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"broken\.png: .*{reason}"):
        stored_mask(str(path))


def test_numbers_that_are_not_whole_are_no_classes(tmp_path):
    with pytest.raises(UnreadableImageError, match="not whole"):
        stored_mask(saved(tmp_path / "float.tif", np.array([[0.5, 1.0]], dtype=np.float32)))

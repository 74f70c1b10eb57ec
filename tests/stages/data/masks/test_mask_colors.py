import numpy as np

from stages.data.masks.mask_colors import class_colors, colored, errors, overlay


def test_colors_are_those_of_pascal_voc():
    assert class_colors(4) == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert len(set(class_colors(255))) == 255


def test_void_and_a_black_background_leave_the_image_as_it_is():
    pixels = np.full((1, 3, 3), 200, np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    assert overlay(pixels, mask, class_colors(2)).tolist() == [[[200] * 3, [164, 100, 100], [200] * 3]]
    assert overlay(pixels, mask, [(10, 10, 10), (128, 0, 0)])[0, 0].tolist() == [105] * 3
    assert colored(mask, class_colors(2)).tolist() == [[[0, 0, 0], [128, 0, 0], [128, 128, 128]]]


def test_where_nobody_knows_nothing_is_wrong():
    picture = errors(np.array([[1, 1, 1]], np.uint8), np.array([[1, 0, 255]], np.uint8))
    assert len({tuple(color) for color in picture[0].tolist()}) == 3
    assert picture[0, 2].tolist() == [128, 128, 128]
    assert picture[0, 1, 0] > picture[0, 1, 1]

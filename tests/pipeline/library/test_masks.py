import numpy as np
import pytest
from PIL import Image

from cache.errors import UsageError
from pipeline.library.masks import mask_files


def test_arrays_become_files_that_hold_the_same_numbers_and_paths_stay(tmp_path):
    own = tmp_path / "own.png"
    Image.fromarray(np.full((2, 3), 7, np.uint8)).save(own)
    deep = np.array([[0, 300], [65535, 1]], np.int64)
    colors = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    files, keys = mask_files([own, deep, np.eye(2, dtype=bool), colors], 4, tmp_path)
    assert files[0] == str(own)
    assert np.array_equal(np.asarray(Image.open(files[1])), deep)
    assert np.array_equal(np.asarray(Image.open(files[2])), np.eye(2))
    assert np.array_equal(np.asarray(Image.open(files[3])), colors)
    assert len(set(keys)) == 4
    assert all(map(len, keys))


def test_a_stack_is_a_mask_for_each_image_and_a_file_that_is_gone_has_no_key(tmp_path):
    files, _ = mask_files(np.zeros((3, 4, 5), np.uint8), 3, tmp_path)
    assert [Image.open(file).size for file in files] == [(5, 4)] * 3
    assert mask_files([tmp_path / "gone.png"], 1, tmp_path)[1] == [""]


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        (np.zeros((2, 4, 5), np.uint8), "2 masks for 1 images"),
        ("a.png", "a sequence of paths"),
        ([np.zeros((4, 5))], r"masks\[0\] is of the shape \[4, 5\] and the type float64"),
        ([np.zeros((4, 5, 2), np.uint8)], r"shape \[4, 5, 2\]"),
        ([np.full((4, 5), -1)], "beyond 0 to 65,535"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, masks, reason):
    with pytest.raises(UsageError, match=reason):
        mask_files(masks, 1, tmp_path)

import numpy as np
import pytest

from cache.errors import DataError
from pipeline.evaluation.shown_masks import LONGEST, ShownMasks, places_to_show


def confusion(right, wrong):
    return np.array([[right, wrong], [0, right]])


def test_the_best_the_middling_and_the_worst_are_shown_and_none_without_a_known_pixel():
    statistics = np.stack([confusion(100, wrong) for wrong in range(30)])
    statistics[7] = 0
    assert places_to_show(statistics, each=2).tolist() == [0, 1, 14, 15, 28, 29]
    assert places_to_show(statistics[:7], each=3).tolist() == [*range(7)]
    assert 7 not in places_to_show(statistics)


def test_masks_are_kept_small_and_read_again(tmp_path):
    random = np.random.default_rng(0)
    large, small = (random.integers(0, 3, shape).astype(np.uint8) for shape in ((900, 1300), (40, 50)))
    assert ShownMasks.load(tmp_path / "masks.npz") is None
    ShownMasks.of(np.array([b"one", b"other"]), [large, small], [large, small]).save(tmp_path / "masks.npz")
    read = ShownMasks.load(tmp_path / "masks.npz")
    assert read.keys.tolist() == [b"one", b"other"]
    assert (read.predicted[1] == small).all()
    assert read.predicted[0].shape == read.true[0].shape == (300, 433)
    assert max(read.predicted[0].shape) <= LONGEST
    assert (read.true[0] == large[1::3, 1::3]).all()
    (tmp_path / "masks.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="is damaged"):
        ShownMasks.load(tmp_path / "masks.npz")

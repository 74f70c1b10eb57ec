import numpy as np
import pytest
import torch

from cache.errors import DataError
from stages.inspection.unlike import MARKED, UnlikeDetector


def around(seed, count, center, spread=0.3, width=32):
    """Features that lie around a direction of their own."""
    direction = np.random.default_rng(center).normal(size=width)
    rows = direction + spread * np.random.default_rng(seed).normal(size=(count, width))
    return rows.astype(np.float32)


TRAIN = np.concatenate([around(1, 300, 1), around(2, 300, 2)])
HELD_OUT = np.concatenate([around(3, 200, 1), around(4, 200, 2)])


@pytest.fixture(scope="module")
def detector():
    return UnlikeDetector.fit(TRAIN, HELD_OUT)


def test_of_images_like_the_training_images_a_few_are_marked_and_of_others_all(detector):
    alike = np.concatenate([around(5, 5000, 1), around(6, 5000, 2)])
    assert MARKED / 4 < (detector.scores(alike) > 1).mean() < 3 * MARKED
    assert (detector.scores(around(7, 500, 3)) > 1).all()


def test_the_level_is_beyond_all_held_out_images_but_the_share_that_may_be_marked(detector):
    assert (detector.scores(HELD_OUT) > 1).sum() == 400 - np.ceil(401 * (1 - MARKED))
    few = UnlikeDetector.fit(TRAIN, HELD_OUT[:7])
    assert (few.scores(HELD_OUT[:7]) <= 1).all()


def test_the_score_is_the_distance_to_the_neighbor_of_its_rank_over_the_level(detector):
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (HELD_OUT, TRAIN)]
    distances = np.sort(1 - units[0] @ units[1].T, axis=1)[:, 29]
    assert np.allclose(detector.scores(HELD_OUT), distances / np.sort(distances)[392], rtol=0.01)
    assert np.allclose(detector.scores(HELD_OUT * 7), detector.scores(HELD_OUT), rtol=1e-3)  # lengths do not count


def test_a_few_training_images_are_enough_and_none_are_not():
    detector = UnlikeDetector.fit(TRAIN[:3], HELD_OUT[:2])
    assert np.isfinite(detector.scores(HELD_OUT)).all()
    with pytest.raises(DataError, match="training and validation images"):
        UnlikeDetector.fit(TRAIN, HELD_OUT[:0])


def test_it_is_the_same_after_it_was_saved(detector, tmp_path):
    detector.save(tmp_path / "unlike.safetensors")
    again = UnlikeDetector.load(tmp_path / "unlike.safetensors")
    assert np.array_equal(again.scores(HELD_OUT), detector.scores(HELD_OUT))
    assert (tmp_path / "unlike.safetensors").stat().st_size < 600 * 32 * 2 + 500


def test_a_damaged_file_and_features_of_another_width_are_refused(detector, tmp_path):
    (tmp_path / "unlike.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is damaged"):
        UnlikeDetector.load(tmp_path / "unlike.safetensors")
    with pytest.raises(DataError, match=r"\[5\] cannot be compared with 32"):
        detector.scores(np.ones((2, 5), np.float32))


def test_what_has_no_direction_is_as_far_as_can_be(detector):
    assert torch.isfinite(torch.from_numpy(detector.scores(np.zeros((1, 32), np.float32)))).all()
    assert detector.scores(np.zeros((1, 32), np.float32)) > 1

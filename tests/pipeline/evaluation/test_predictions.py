import numpy as np
import pytest

from pipeline.evaluation.predictions import Predictions
from stages.tasks.single_label import SingleLabel
from tests.pipeline.finished_runs import key, predictions

GROUPS = ["ann", "", "ann", "bob"]
MADE = predictions([0, 1, 1, 0], [0, 0, 1, 0], groups=GROUPS)


def test_they_come_back_as_they_were_kept_with_their_groups(tmp_path):
    np.savez(tmp_path / "predictions.npz", **MADE.arrays())
    read = Predictions.load(tmp_path / "predictions.npz", MADE.task)
    assert {*read.arrays()} == {*MADE.arrays()} >= {"groups", "probabilities", "target"}
    assert all(np.array_equal(array, read.arrays()[name]) for name, array in MADE.arrays().items())


def test_a_sample_without_a_group_is_a_unit_of_its_own():
    assert MADE.units.tolist() == ["group ann", f"image {key(1)}", "group ann", "group bob"]
    assert predictions([0, 1], [0, 0]).units is None


def test_some_of_them_keep_what_is_said_of_each():
    some = MADE.select(np.array([3, 0]))
    assert (some.groups.tolist(), some.keys.tolist()) == (["bob", "ann"], [key(3).encode(), key(0).encode()])
    assert some.correct.tolist() == MADE.correct[[3, 0]].tolist() == [True, True]


def test_arrays_of_unlike_lengths_are_refused():
    with pytest.raises(ValueError, match="not about the same images"):
        Predictions(MADE.task, MADE.keys[:3], MADE.locations, MADE.statistics)


def test_statistics_without_fields_are_kept_whole(tmp_path):
    class Numbers(SingleLabel):
        columns = ("target", "predicted")

        def __init__(self):
            self.out_features = 1

        def cells(self, statistic):
            return [str(statistic[0]), str(statistic[1])]

    made = Predictions(Numbers(), ["a", "b"], ["a.png", "b.png"], np.array([[1.0, 2.0], [3.0, 4.0]]))
    np.savez(tmp_path / "predictions.npz", **made.arrays())
    read = Predictions.load(tmp_path / "predictions.npz", made.task)
    np.testing.assert_array_equal(read.statistics, made.statistics)

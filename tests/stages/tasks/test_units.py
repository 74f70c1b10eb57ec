import numpy as np
import pytest

from stages.tasks.units import Units


def test_units_say_how_many_samples_they_count_as_where_all_of_a_unit_are_alike():
    assert Units.of(6, None).effective == 6
    assert Units.of(6, ["a", "a", "b", "b", "c", "c"]).effective == 3
    assert Units.of(6, ["a"] * 5 + ["b"]).effective == pytest.approx(36 / 26)


def test_units_of_one_size_whose_samples_are_the_same_are_one_sample_each():
    units = Units.of(6, [0, 1, 2, 0, 1, 2])
    assert units.as_one_each(np.array([1, 0, 3, 1, 0, 3])).tolist() == [1, 0, 3]
    assert units.as_one_each(np.array([1, 0, 3, 1, 0, 2])) is None
    assert Units.of(3, [0, 0, 1]).as_one_each(np.array([1, 1, 1])) is None

"""Cells of a table: numbers, words, and nothing."""

import math

import numpy as np
import pytest

from cache.errors import DataError
from stages.columns.cells import as_numbers, number_of


@pytest.mark.parametrize(
    ("cell", "number"),
    [("3", 3), (" 3.5 ", 3.5), ("-1e3", -1000), ("abc", None), ("3,5", None), ("inf", None), ("1_000", None)],
)
def test_a_number_is_what_people_write_as_one(cell, number):
    assert number_of(cell) == number


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "NaN", "?", "-"])
def test_what_stands_for_nothing_is_missing(cell):
    assert math.isnan(number_of(cell))


def test_words_among_numbers_are_refused_with_the_rows_they_are_in():
    rows = [f"{number}.jpg" for number in range(9)]
    with pytest.raises(DataError, match=r"area holds what is no number in 2 of 9 rows: 'big' \(3.jpg\), 'x' \(5.jpg\)"):
        as_numbers("area", ["1", "2", "", "big", "5", "x", "7", "8", "9"], rows)
    with pytest.raises(DataError, match="decimals with a point"):
        as_numbers("area", ["1,5"], ["a.jpg"])
    with pytest.raises(DataError, match=r"no logarithm in 1 of 2 rows: 0 \(b.jpg\)"):
        as_numbers("area", ["1", "0"], ["a.jpg", "b.jpg"], log=True)
    assert np.isnan(as_numbers("area", ["1", ""], ["a.jpg", "b.jpg"])).tolist() == [False, True]

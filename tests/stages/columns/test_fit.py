"""What of columns cannot be fitted, and is said."""

import pytest

from cache.errors import DataError
from stages.columns.fit import ColumnChoice, fit_columns


@pytest.mark.parametrize(
    ("option", "cells", "message"),
    [
        ("numbers", ["3", "3.0", "3"], "`columns` x is constant: 3 in all 3 rows of train"),
        ("numbers", ["", "NA", ""], "`columns` x is empty in all 3 rows"),
        ("categories", ["a", "a ", "a"], "`categories` x is constant: 'a'"),
        ("categories", ["a", "b", "c"], "`categories` x has 3 categories in 3 rows of train, each in fewer than"),
        ("texts", ["one", "two", ""], "`texts` x has no word that is in two of the 3 texts"),
    ],
)
def test_a_column_that_says_nothing_is_refused(option, cells, message):
    with pytest.raises(DataError, match=message):
        fit_columns(ColumnChoice(**{option: ("x",)}), {"x": cells}, cells)


def test_numbers_and_categories_come_before_texts_and_each_text_is_a_part():
    columns = {"area": ["1", "2", "3"], "note": ["new roof", "new door", "old door"], "zone": ["a", "a", "b"]}
    choice = ColumnChoice(numbers=("area",), categories=("zone",), texts=("note",), min_frequency=1)
    encoder = fit_columns(choice, columns, ["", "", ""])
    assert encoder.names == ["area", "zone", "note"]
    assert encoder.blocks == (("columns", 3), ("note", 2))
    assert encoder.encode(columns, ["", "", ""]).values.shape == (3, encoder.width)

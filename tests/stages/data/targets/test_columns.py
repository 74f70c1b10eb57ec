"""What cells mean."""

import pytest

from stages.data.targets.columns import TargetColumns, is_missing, is_quantity, number_of, truth_of


@pytest.mark.parametrize("text", ["", "nan", "NaN", "NA", "n/a", "#N/A", "<NA>", "NULL", "None"])
def test_what_spreadsheets_and_pandas_write_for_nothing_is_nothing(text):
    assert is_missing(text)
    assert number_of(text) is None
    assert truth_of(text) is None


def test_a_label_is_there_or_not_in_several_words():
    assert [truth_of(text) for text in ("1", "1.0", "True", "yes")] == [True] * 4
    assert [truth_of(text) for text in ("0", "0.0", "FALSE", "No")] == [False] * 4
    assert [truth_of(text) for text in ("2", "x", "")] == [None] * 3


def test_numbers_are_finite_and_written_as_anybody_writes_them():
    assert [number_of(text) for text in ("1", "-2.5", "1e3")] == [1.0, -2.5, 1000.0]
    assert [number_of(text) for text in ("inf", "1,5", "1_000", "$3", "x")] == [None] * 5


def test_digits_behind_a_zero_are_a_code_and_no_quantity():
    assert [is_quantity(text) for text in ("07", "-01", "0", "0.5", "10")] == [False, False, True, True, True]


def test_rows_are_named_by_their_lines_and_at_most_ten_of_them():
    values = {"price": [f"p{index}" for index in range(12)]}
    locations = [f"{index}.jpg" for index in range(12)]
    columns = TargetColumns(values, locations, list(range(2, 14)), "table.csv", True, True, ())
    assert columns.rows([0, 3], "price") == "line 2 ('p0'), line 5 ('p3')"
    assert columns.rows(range(12)).startswith("line 2, line 3")
    assert columns.rows(range(12)).endswith("line 11 and 2 more")
    assert TargetColumns(values, locations, [], "data", True, True, ()).rows([1]) == "1.jpg"

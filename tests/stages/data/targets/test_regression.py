"""Numbers."""

import pytest

from cache.errors import DataError, UsageError
from tests.stages.data.targets.read_table import read_table, table_of


def test_rows_without_a_number_are_left_out_and_counted(tmp_path):
    records, reading = read_table(tmp_path, table_of(["3.5", "", "4", "NaN"], "price"), target="price")
    assert (records.targets, records.extra, records.class_names) == (["3.5", "4"], {}, ())
    assert [location[-5:] for location in records.locations] == ["0.jpg", "2.jpg"]
    assert records.notes[-1] == "rows without price: 2, left out (line 3, line 5)"
    assert reading.make_task(records.targets).names == ("price",)


def test_of_several_numbers_one_may_be_unknown(tmp_path):
    records, _ = read_table(tmp_path, table_of(["1.5,2", ",3", ",", "4,"], "w,h"), target="w,h")
    assert records.targets == ["1.5|2", "|3", "4|"]
    assert records.notes[-1] == "rows without w and h: 1, left out (line 4)"


def test_rows_that_hold_no_number_are_named_and_at_most_ten(tmp_path):
    cells = [*map(str, range(100, 300)), *(["x"] * 12)]
    with pytest.raises(DataError, match=r"price is not a number in 12 of 212 rows: line 202 \('x'\), .* and 2 more$"):
        read_table(tmp_path, table_of(cells, "price"), target="price")
    with pytest.raises(DataError, match=r"line 3 \('2,5'\)\. Decimals are written with a point"):
        read_table(tmp_path, table_of(["1.5", '"2,5"'], "price"), target="price", task="regression")


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["1", "0", "-2"], {"log_target": True}, r"price has no logarithm, .* in 2 rows, .*: line 3 \('0'\), line 4"),
        (["7", "7.0", ""], {}, "the target price is 7 in all rows: there is nothing to learn"),
        (["", ""], {}, "the target price is empty in all rows"),
    ],
)
def test_numbers_that_cannot_be_predicted_are_refused(tmp_path, cells, options, message):
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, table_of(cells, "price"), target="price", task="regression", **options)


def levels(tmp_path, cells, order):
    records, reading = read_table(tmp_path, table_of(cells), ordinal=order)
    return reading.make_task(records.targets).levels


def test_classes_are_in_the_order_that_is_given_or_of_their_values(tmp_path):
    assert levels(tmp_path, ["low", "high", "mid"], "low,mid,high") == ("low", "mid", "high")
    assert levels(tmp_path, ["10", "2.0", "1", "2"], "auto") == ("1", "2.0", "10")
    assert levels(tmp_path, ["10", "2.0", ""], "1,2,10") == ("1", "2", "10")


def test_classes_without_an_order_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"`ordinal` auto orders numbers, and label is none in 1 rows: line 3 \('low'\)"
    ):
        levels(tmp_path, ["1", "low"], "auto")
    with pytest.raises(DataError, match=r"none of the classes that `ordinal` orders \(low, high\) in 1 rows: line 3"):
        levels(tmp_path, ["low", "mid"], "low,high")
    with pytest.raises(UsageError, match="at least two classes are ordered"):
        levels(tmp_path, ["1", "1"], "auto")
    with pytest.raises(UsageError, match="`ordinal` is for one column"):
        read_table(tmp_path, table_of(["1,2"], "a,b"), target="a,b", ordinal="auto")

"""One class a sample."""

import pytest

from cache.errors import DataError, UsageError
from tests.stages.data.targets.read_table import read_table, table_of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: no label"),
        ('path,label\n"new\nline.jpg",cat\nb.jpg,\n', "line 4: no label"),
    ],
)
def test_a_row_without_a_class_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=f"table.csv, {message}"):
        read_table(tmp_path, text)


def test_another_column_is_the_class_where_it_is_named(tmp_path):
    records, reading = read_table(tmp_path, "path,label,kind\na.jpg,x,dog\nb.jpg,y,cat\n", target="kind")
    assert (records.targets, records.class_names, records.extra) == (["dog", "cat"], ("cat", "dog"), {})
    assert records.notes == ["the column label is left out: what is predicted is kind"]


def test_classes_without_a_sample_are_none(tmp_path):
    _, reading = read_table(tmp_path, table_of(["cat", "dog", "10", "9"]))
    assert reading.make_task(["dog", "10"]).class_names == ("10", "dog")


def test_several_columns_are_not_one_class(tmp_path):
    with pytest.raises(UsageError, match="single_label takes one column, and `target` names 2: a, b"):
        read_table(tmp_path, table_of(["x,y"], "a,b"), target="a,b", task="single_label")


def test_classes_that_may_be_several_labels_are_told(tmp_path):
    records, _ = read_table(tmp_path, table_of(["a|b", "c|d"]))
    assert records.notes == ["2 classes look like several labels, as 'a|b': if they are, say `task` multi_label"]
    records, _ = read_table(tmp_path, table_of(["a|b", "c|d"]), task="single_label")
    assert records.notes == []

"""Which columns are targets."""

import pytest

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.data.sources.records import SourceRecords
from stages.data.sources.target_columns import named_columns, with_target_columns


def test_columns_are_named_or_matched_and_come_in_the_order_of_the_table():
    columns = ["tag_b", "price", "tag_a", "tag_*"]
    assert named_columns(["price", "tag_?"], columns, "table") == ["tag_b", "price", "tag_a", "tag_*"]
    assert named_columns(["tag_*"], columns, "table") == ["tag_*"]


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"`target` prize: t.csv has no such column; there are price, a.*'price'\?"):
        named_columns(["prize"], ["price", "a"], "t.csv")
    with pytest.raises(UsageError, match=r"`target` x\*: t.csv has no column of that pattern"):
        named_columns(["x*"], ["price", "a"], "t.csv")


def records(extra):
    return SourceRecords(["a", "b"], ["cat", "dog"], ("cat", "dog"), ["", ""], ["", ""], extra=extra)


def test_a_source_with_columns_gives_one_as_the_target_and_its_classes_are_none():
    chosen = with_target_columns(records({"p": ["1", "2"], "q": ["x", "y"]}), DataConfig("somewhere", target="p"))
    assert (chosen.target_columns, chosen.extra, chosen.class_names) == ({"p": ["1", "2"]}, {"q": ["x", "y"]}, ())
    plain = records({"p": ["1", "2"]})
    assert with_target_columns(plain, DataConfig("somewhere")) is plain


def test_a_source_without_columns_has_no_target_to_be_named():
    with pytest.raises(UsageError, match="`target` price is a column of a table, and `data` photos has no columns"):
        with_target_columns(records({}), DataConfig("photos", target="price"))

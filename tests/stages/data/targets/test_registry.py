"""The task that is named, or that the columns plainly are."""

import pytest

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.sources.records import SourceRecords
from stages.data.targets.registry import read_targets
from tests.stages.data.targets.read_table import read_table, table_of


def task_of(tmp_path, text, **options):
    records, reading = read_table(tmp_path, text, **options)
    return reading.make_task(records.targets).name


MANY = [str(number) for number in range(0, 90, 3)]


@pytest.mark.parametrize(
    ("text", "options", "task"),
    [
        (table_of(["cat", "dog"]), {}, "single_label"),
        (table_of(["a|b", "b"], "labels"), {}, "multi_label"),
        (table_of(["a", "b"], "labels"), {}, "multi_label"),
        (table_of(["a|b", "b", "c"]), {}, "multi_label"),
        (table_of(["a|b", "c|d"]), {}, "single_label"),
        (table_of(["a|b", "b", "c"]), {"task": "single-label"}, "single_label"),
        (table_of(["1,0", "0,1"], "tag_a,tag_b"), {"target": "tag_*"}, "multi_label"),
        (table_of(["yes,", "no,yes"], "a,b"), {"target": ("a", "b")}, "multi_label"),
        (table_of(["2,0", "0,1.5"], "a,b"), {"target": "a,b"}, "regression"),
        (table_of(["0.5", "1", "2"], "price"), {"target": "price"}, "regression"),
        (table_of(MANY, "price"), {"target": "price"}, "regression"),
        (table_of(MANY, "target"), {}, "regression"),
        (table_of(["1", "2", "3", "1"], "stars"), {"target": "stars"}, "single_label"),
        (table_of(["1", "2", "3", "1"]), {}, "single_label"),
        (table_of(["1", "2", "3", "1"]), {"task": "regression"}, "regression"),
        (table_of(["1", "2", "3", "1"]), {"ordinal": "auto"}, "regression"),
        (table_of(["1", "2", "3", "1"]), {"log_target": True}, "regression"),
        (table_of([f"{number:03}" for number in range(90)]), {}, "single_label"),
        (table_of([str(index % 40) for index in range(800)]), {}, "single_label"),
    ],
)
def test_the_task_is_found_where_it_is_plain(tmp_path, text, options, task):
    assert task_of(tmp_path, text, **options) == task


@pytest.mark.parametrize("cells", [["0.5", "1", "2"], MANY])
def test_numbers_that_may_be_quantities_or_names_of_classes_are_asked_about(tmp_path, cells):
    with pytest.raises(DataError, match="say `task` regression; if they are names of classes, say `task` single_label"):
        task_of(tmp_path, table_of(cells))
    assert task_of(tmp_path, table_of(cells), task="single-label") == "single_label"


def test_how_a_task_was_found_is_said(tmp_path):
    records, _ = read_table(tmp_path, table_of(["a|b", "b"], "labels"))
    found = "the task is multi_label: the column is called labels (`task` single_label takes its words for classes)"
    assert records.notes == [found]
    records, _ = read_table(tmp_path, table_of(["a|b", "b"], "labels"), task="multi-label")
    assert records.notes == []


def test_an_option_for_another_task_is_refused(tmp_path):
    for options in ({"log_target": True}, {"ordinal": "cat,dog"}):
        with pytest.raises(UsageError, match=r"is for `task` regression, and this is single_label"):
            read_table(tmp_path, table_of(["cat", "dog"]), task="single_label", **options)


def test_classes_of_folders_and_data_sets_are_classes_whatever_they_are_called():
    records = SourceRecords(["a", "b"], ["1|2", "0.5"], ("1|2", "0.5"), ["", ""], ["", ""])
    chosen, reading = read_targets(records, DataConfig("somewhere"))
    assert reading.make_task(chosen.targets).to_json() == {"name": "single_label", "class_names": ["1|2", "0.5"]}
    assert chosen.notes == []
    numbers = SourceRecords(["a", "b"], ["1", "5"], ("1", "5"), ["", ""], ["", ""])
    chosen, reading = read_targets(numbers, DataConfig("somewhere", task="regression"))
    assert (chosen.class_names, reading.make_task(chosen.targets).name) == ((), "regression")

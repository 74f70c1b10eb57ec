"""Several labels a sample."""

import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.records import SourceRecords
from stages.data.targets.registry import read_targets
from tests.stages.data.targets.read_table import read_table, table_of


def test_blanks_order_and_repetitions_mean_nothing_and_no_label_is_one_answer(tmp_path):
    cells = ["b|a", " a | b |a", "", "|", "c", "10|9"]
    records, reading = read_table(tmp_path, table_of(cells, "labels"))
    assert records.targets == ["a|b", "a|b", "", "", "c", "9|10"]
    assert reading.make_task(records.targets).class_names == ("9", "10", "a", "b", "c")


def test_a_column_for_each_label_says_yes_no_or_nothing(tmp_path):
    rows = ["1,0,yes", "0,1,no", "true,,No", ",,", "0,0.0,nan"]
    records, reading = read_table(tmp_path, table_of(rows, "tag_b,tag_a,sun"), target="tag_*,sun")
    assert reading.make_task(records.targets).class_names == ("tag_b", "tag_a", "sun")
    assert records.targets == ["tag_b|sun", "tag_a", "tag_b|?tag_a", "?sun"]
    assert records.notes[-1] == "rows with nothing in the columns of the labels: 1, left out (line 5)"


def test_one_column_of_0_and_1_may_be_a_label(tmp_path):
    records, reading = read_table(tmp_path, table_of(["1", "0", ""], "rain"), target="rain", task="multi-label")
    assert records.targets == ["rain", ""]
    assert reading.make_task(records.targets).class_names == ("rain",)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            table_of(["1,0", "2,1", "x,1"], "a,b"),
            {"target": "a,b"},
            r"column a of a label .* 2 rows: line 3 \('2'\), l",
        ),
        (table_of(["1,0", "1,"], "a,b"), {"target": "a,b"}, "no sample has the label b: there is nothing to learn"),
        (table_of(["a|?b", "?b"], "labels"), {}, "no sample has the label b"),
        (table_of(["", ""], "labels"), {}, "no sample has a label in the column labels"),
        (table_of(['"a,b"', "a"], "labels"), {}, "column labels joins labels with ',', as 'a,b'; write '|' between"),
        (table_of(["a;b", "b"], "labels"), {}, "joins labels with ';'"),
    ],
)
def test_what_cannot_be_labels_is_named(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, text, task="multi_label", **options)


def test_what_is_said_of_one_image_several_times_holds_together(tmp_path):
    _, reading = read_table(tmp_path, table_of(["a|b|?c", "c"], "labels"))
    assert reading.join(["b", "a"]) == "a|b"
    assert reading.join(["?c", "a|?c|?b", "?b|?c"]) == "a|?c"
    assert reading.join(["?c", "c"]) == "c"


def test_folders_are_labels_where_the_task_says_so():
    records = SourceRecords(["a", "b"], ["sun", "rain"], ("sun", "rain"), ["", ""], ["", ""])
    chosen, reading = read_targets(records, DataConfig("somewhere", task="multi_label"))
    assert (chosen.targets, reading.make_task([]).class_names) == (["sun", "rain"], ("sun", "rain"))

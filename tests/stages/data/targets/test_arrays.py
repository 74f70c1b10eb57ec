"""Targets that are in memory."""

import numpy as np
import pandas as pd
import pytest

from cache.errors import DataError, UsageError
from stages.data.targets.arrays import read_arrays


def task_of(values, **options):
    reading, classes = read_arrays(values, **options)
    return reading.make_task(reading.texts), reading.texts, classes


@pytest.mark.parametrize(
    "values", [np.array(["b", "a", "b"]), [10, 9, 10], np.array([2.0, 1.0, 2.0]), [True, False, True]]
)
def test_classes_are_of_any_type_and_stay_it(values):
    task, texts, classes = task_of(values)
    assert task.name == "single_label"
    assert classes.tolist() == sorted(set(np.asarray(values).tolist()))
    assert task.class_names == tuple(map(str, classes.tolist()))
    assert [task.load(text).item() for text in texts] == [1, 0, 1]


def test_columns_of_0_and_1_and_lists_of_words_are_labels():
    task, texts, classes = task_of(np.array([[1, 0], [0, 1], [1, np.nan]]))
    assert (task.class_names, texts, classes) == (("0", "1"), ["0", "1", "0|?1"], None)
    task, texts, _ = task_of(pd.DataFrame({"sun": [True, False], "wind": [False, True]}))
    assert (task.class_names, texts) == (("sun", "wind"), ["sun", "wind"])
    task, texts, _ = task_of([["wind", "sun"], [], ["sun"]])
    assert (task.class_names, texts) == (("sun", "wind"), ["sun|wind", "", "sun"])
    assert task_of([["sun"], ("wind",)])[0].name == "multi_label"


def test_numbers_are_asked_for_and_keep_every_digit():
    values = [1 / 3, 2.5, 1e-7]
    for several in (values, np.transpose([values, values])):
        with pytest.raises(UsageError, match=r"labels holds numbers that are no classes: .* task='regression'"):
            read_arrays(several)
    task, texts, _ = task_of(values, task="regression")
    assert [float(text) for text in texts] == values
    task, texts, _ = task_of(pd.DataFrame({"w": values, "h": [1, 2, 3]}), task="regression")
    assert (task.names, texts[1]) == (("w", "h"), "2.5|2.0")
    assert task_of(values, log_target=True)[0].log
    assert task_of([3, 1, 2], ordinal=["auto"])[0].levels == ("1", "2", "3")


def test_what_cannot_be_targets_is_named_by_its_place():
    with pytest.raises(DataError, match=r"not a number in 1 of 3 rows: labels\[1\] \('x'\)"):
        read_arrays(["1", "x", "2"], task="regression")
    with pytest.raises(UsageError, match=r"labels says nothing of labels\[1\]: leave these samples out"):
        read_arrays([1.5, np.nan, 2.5], task="regression")
    with pytest.raises(UsageError, match=r"\[n\], or several, \[n, k\], not \[2, 1, 1\]"):
        read_arrays(np.zeros((2, 1, 1)))


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "b", float("nan")],
        pd.Series(["a", None, "b", None], dtype="string"),
        np.array(["a", None, "b", np.nan], dtype=object),
        [1.0, np.nan, 2.0, np.nan],
        [2, None, 3, pd.NA],
    ],
)
def test_a_class_that_is_missing_is_none_of_the_classes(values):
    with pytest.raises(UsageError, match=r"labels says nothing of labels\[1\], labels\[3\]: leave these samples out"):
        read_arrays(values)


def test_classes_without_an_order_are_refused_in_words():
    with pytest.raises(
        UsageError, match="labels holds classes of the type int and str, which have no order: make them"
    ):
        read_arrays(np.array([1, "b", 1], dtype=object))


@pytest.mark.parametrize(
    "values", [np.array([[2], [1], [2]]), pd.DataFrame({"kind": ["b", "a", "b"]}), [(2,), (1,), (2,)]]
)
def test_one_column_of_classes_is_classes(values):
    task, _, classes = task_of(values)
    assert task.name == "single_label"
    assert len(classes) == 2


def test_words_in_columns_and_names_that_would_be_torn_apart_are_refused():
    with pytest.raises(UsageError, match="labels has several columns, which hold 0 and 1, or numbers, and not 'a'"):
        read_arrays(np.array([["a", "b"], ["b", "a"]]))
    with pytest.raises(UsageError, match=r"the name of a label holds no '\|', as 'sun\|moon' does"):
        read_arrays([["sun|moon"], ["wind"]])


def test_ordered_classes_may_be_one_word_with_commas():
    task, texts, _ = task_of(["low", "high"], ordinal="low,high")
    assert task.levels == ("low", "high")
    assert texts == ["low", "high"]

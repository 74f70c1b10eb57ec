"""Targets as Python has them."""

import numpy as np
import pandas as pd
import pytest

from cache.errors import DataError, UsageError
from pipeline.library.targets import given_targets


@pytest.mark.parametrize(
    "labels",
    [
        [["dog", "cat"], [], {"dog"}, ("bird",)],
        ["dog|cat", "", "dog", "bird"],
        pd.DataFrame({"bird": [0, 0, 0, 1], "cat": [1, 0, 0, 0], "dog": [1, 0, 1, 0]}),
    ],
    ids=["names", "text", "columns"],
)
def test_labels_are_names_or_columns_of_0_and_1(labels):
    given = given_targets(labels, "multi-label")
    assert given.classes.tolist() == ["bird", "cat", "dog"]
    assert given.targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_nan_is_not_known():
    given = given_targets(np.array([[1, np.nan], [0, 1], [1, 0]]), "multi_label")
    assert given.classes.tolist() == ["target 0", "target 1"]
    np.testing.assert_array_equal(given.targets, [[1, np.nan], [0, 1], [1, 0]])
    numbers = given_targets(pd.DataFrame({"price": [1.5, 2.5, 3], "area": [np.nan, 70, 80]}), "regression")
    assert numbers.classes.tolist() == ["price", "area"]
    np.testing.assert_array_equal(numbers.targets, [[1.5, np.nan], [2.5, 70], [3, 80]])


def test_numbers_keep_every_digit_and_may_be_ordered_classes():
    values = np.random.default_rng(0).normal(1e6, 1, 50)
    assert np.array_equal(given_targets(values, "regression").targets[:, 0], values)
    levels = given_targets(["low", "high", "low"], "regression", ordinal=["low", "high"])
    assert levels.targets[:, 0].tolist() == [0, 1, 0]
    logarithms = given_targets([1.0, np.e], "regression", log_target=True)
    assert np.allclose(logarithms.targets[:, 0], [0, 1])


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (["a", "b"], {"task": "multilabel"}, UsageError, "`task` multilabel: there is no such task"),
        (["a", "b"], {"task": "single_label", "log_target": True}, UsageError, "`log_target` is for `task` regression"),
        (["1", "b", "2"], {"task": "regression"}, DataError, "target is not a number in 1 of 3 rows: image 1"),
        ([1.0, np.nan, 2.0], {"task": "regression"}, DataError, "says nothing of 1 images"),
        ([[1, 2]], {"task": "single_label"}, UsageError, r"one value for each image, \[n\], not \[1, 2\]"),
        ([], {"task": "regression"}, UsageError, "labels is empty"),
    ],
)
def test_what_are_no_targets_of_the_task_is_refused(labels, options, error, message):
    with pytest.raises(error, match=message):
        given_targets(labels, **options)

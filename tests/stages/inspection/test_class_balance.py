import numpy as np

from stages.inspection.class_balance import Balance
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression


def balance(train, val=None, test=None):
    parts = {"train": train, "val": val or train, "test": test or train}
    labels = np.concatenate([np.repeat(np.arange(len(train)), counts) for counts in parts.values()])
    splits = [split for split, counts in parts.items() for _ in range(sum(counts))]
    return Balance.of(labels, splits, ("ant", "bee", "cat"))


def test_counts_and_ratio_are_those_of_the_splits():
    counted = balance([60, 20, 15], [6, 2, 1], [3, 2, 1])
    assert counted.counts.tolist() == [[60, 20, 15], [6, 2, 1], [3, 2, 1]]
    assert counted.ratio == 4


def test_words_say_what_to_do_about_it():
    even, close, uneven = (" ".join(balance(counts).words) for counts in ([30, 30, 30], [30, 20, 25], [90, 30, 15]))
    assert even == "Every class has 30 training images."
    assert "1.5 to 1" in close
    assert "class-weights" not in close
    assert "6 to 1" in uneven
    assert "Always answering ant would be right for 67%" in uneven
    assert "`class_weights` balanced" in uneven


def test_small_and_absent_classes_are_named():
    text = " ".join(balance([20, 4, 30], [2, 0, 2]).words)
    assert "fewer than 10 training images: bee (4)" in text
    assert "without an image in val: bee" in text


def test_labels_are_counted_one_by_one_and_images_without_any_too():
    targets = np.array([[1, 0], [1, 1], [0, 0], [np.nan, 0], [1, 0], [1, 0]])
    counted = Balance.of_task(MultiLabel(["car", "tree"]), targets, ["train"] * 4 + ["val", "test"])
    assert counted.counts.tolist() == [[2, 1], [1, 0], [1, 0]]
    text = " ".join(counted.words)
    assert "car has 2 training images and tree 1: 2 to 1. The average precision of a guess is" in text
    assert "Labels without an image in val: tree." in text
    assert "Images without any label: 2 in train, 0 in val, 0 in test." in text
    assert Balance.of_task(Regression(), targets, []) is None

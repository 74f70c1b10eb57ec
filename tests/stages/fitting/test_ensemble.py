"""Weights of heads that help each other, and what is said of a fold without a look at its targets."""

from dataclasses import replace

import numpy as np
import pytest

from stages.fitting.ensemble import Answers, average, select_greedily
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

CLASSES = SingleLabel(["a", "b", "c"])
COUNT = 300


def probabilities(right, certainty):
    """Probabilities of three classes, with that much for the true one, [n, 3]."""
    share = np.full((len(right), 3), 0.0, np.float32)
    share[:] = ((1 - certainty) / 2)[:, None]
    share[np.arange(len(right)), right] = certainty
    return share


@pytest.fixture(scope="module")
def answers():
    """Two heads that err on different rows, one that guesses, and five folds, twice over."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, COUNT)
    good = [probabilities(targets, np.where(rng.random(COUNT) < 0.75, 0.8, 0.1)) for _ in range(2)]
    guessing = probabilities(rng.integers(0, 3, COUNT), np.full(COUNT, 0.9))
    folds = [rng.permutation(COUNT) % 5 for _ in range(2)]
    twice = [np.concatenate([part, part]) for part in (*good, guessing)]
    return Answers(twice, np.tile(targets, 2), np.concatenate(folds), np.repeat([0, 1], COUNT))


def mean_loss(answers, said, task=CLASSES):
    return task.agreement_loss(task.agreement(said, answers.targets)).mean()


def test_heads_that_err_on_different_rows_are_better_together_and_a_guess_counts_nothing(answers):
    weights, out_of_fold = select_greedily(CLASSES, answers)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == 0
    assert weights[:2].min() > 0.3
    assert mean_loss(answers, out_of_fold) < 0.9 * min(mean_loss(answers, part) for part in answers.answers)
    np.testing.assert_allclose(out_of_fold.sum(axis=1), 1, atol=1e-6)
    near = [[share, 1 - share, 0] for share in np.linspace(0, 1, 101)]
    least = min(mean_loss(answers, average(answers.answers, np.array(weights))) for weights in near)
    assert mean_loss(answers, average(answers.answers, weights)) == pytest.approx(least, abs=1e-4)


def test_targets_of_a_fold_have_no_part_in_what_is_said_of_it(answers):
    left_out = (answers.fold == 2) & (answers.repeat == 1)
    changed = np.where(left_out, (answers.targets + 1) % 3, answers.targets)
    others = Answers(answers.answers, changed, answers.fold, answers.repeat)
    said, of_changed = (select_greedily(CLASSES, part)[1] for part in (answers, others))
    np.testing.assert_array_equal(said[left_out], of_changed[left_out])
    in_repeat = (answers.repeat == 1) & ~left_out
    assert not np.array_equal(said[in_repeat], of_changed[in_repeat])


def test_of_heads_that_say_the_same_one_is_enough_and_the_best_alone_may_be_the_ensemble(answers):
    alike = Answers([answers.answers[0]] * 2, answers.targets, answers.fold, answers.repeat)
    weights, out_of_fold = select_greedily(CLASSES, alike)
    assert weights.tolist() == [1, 0]
    np.testing.assert_allclose(out_of_fold, answers.answers[0], atol=1e-6)


def test_rare_classes_count_as_much_where_they_are_to(answers):
    rare = answers.targets == 0
    rng = np.random.default_rng(1)
    kept = np.flatnonzero(~rare | (rng.random(len(rare)) < 0.1))
    targets = answers.targets[kept]
    # one head knows the frequent classes, the other the rare one
    sure_of = [probabilities(targets, np.where((targets == 0) == is_rare, 0.9, 0.3)) for is_rare in (False, True)]
    few = Answers(sure_of, targets, answers.fold[kept], answers.repeat[kept])
    as_they_come, balanced = (select_greedily(CLASSES, few, balanced=balanced)[0] for balanced in (False, True))
    assert balanced[1] > as_they_come[1] + 0.1


def test_rows_of_a_class_that_was_left_out_with_them_say_nothing_of_heads():
    """A head that is never quite sure loses less by them, and is no better for that."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, COUNT)
    targets[7] = 2  # of a class of its own: in its fold no head knew it
    sure = probabilities(targets, np.where(rng.random(COUNT) < 0.95, 0.98, 0.01))
    unsure = probabilities(targets, np.where(rng.random(COUNT) < 0.9, 0.9, 0.05))
    sure[7], unsure[7] = [1, 0, 0], [0.5, 0.4, 0.1]
    fold, repeat = np.arange(COUNT) % 5, np.zeros(COUNT, np.int64)
    others = np.arange(COUNT) != 7
    answers = Answers([sure, unsure], targets, fold, repeat)
    assert np.array_equal(answers.tell, others)
    for balanced in (False, True):
        weights = select_greedily(CLASSES, answers, balanced=balanced)[0]
        without = Answers([sure[others], unsure[others]], targets[others], fold[others], repeat[others])
        assert np.allclose(weights, select_greedily(CLASSES, without, balanced=balanced)[0])
    # heads that were fitted to other rows may have known it
    assert replace(answers, fitted_to_others=False).tell.all()
    of_all = select_greedily(CLASSES, replace(answers, fitted_to_others=False), balanced=True)[0]
    assert of_all[1] > weights[1] + 0.1
    alone = Answers([sure[:3], unsure[:3]], np.arange(3), np.arange(3), np.zeros(3, np.int64))
    assert alone.tell.all(), "where no row tells anything all are asked"


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (MultiLabel(["sky", "dog"]), np.array([[1, 0], [np.nan, 1], [0, np.nan], [np.nan, np.nan]] * 20, np.float32)),
        (Regression(("width",)), np.tile([[1.0], [2.0], [np.nan], [-1.0]], (20, 1))),
    ],
    ids=["multi_label", "regression"],
)
def test_what_is_not_known_counts_nothing(task, targets):
    rng = np.random.default_rng(0)
    near = np.where(np.isnan(targets), 0.0, targets)
    heads = [0.5 + 0.4 * (near - 0.5) + shift for shift in (-0.05, 0.05)] if task.name == "multi_label" else None
    heads = heads or [near + shift for shift in (-0.2, 0.2)]
    folds = rng.permutation(len(targets)) % 4
    weights, said = select_greedily(task, Answers(heads, targets, folds, np.zeros_like(folds)))
    unlike = [np.where(np.isnan(targets), 0.9, head) for head in heads]
    again = select_greedily(task, Answers(unlike, targets, folds, np.zeros_like(folds)))[0]
    assert weights.tolist() == again.tolist()
    assert np.isfinite(said).all()

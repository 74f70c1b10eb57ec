import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from stages.tasks.class_scores import class_scores

CLASSES = 4


def drawn(samples=300, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(CLASSES - 1, size=samples)  # of the last class there is no sample
    predicted = np.where(rng.random(samples) < 0.7, target, rng.integers(CLASSES - 1, size=samples))
    return target, predicted


def one_hot(classes):
    return classes[:, None] == np.arange(CLASSES)


def test_scores_are_scikit_learns_and_shares_have_wilsons_interval():
    target, predicted = drawn()
    scores = class_scores(one_hot(target), one_hot(predicted))
    expected = precision_recall_fscore_support(target, predicted, labels=range(CLASSES), zero_division=np.nan)
    for share, values in zip((scores.precision, scores.recall, scores.f1), expected[:3], strict=True):
        assert np.allclose(
            share.value, np.where(scores.support + scores.predicted == 0, np.nan, values), equal_nan=True
        )
    assert scores.support.tolist() == expected[3].tolist()
    for number in range(CLASSES - 1):
        hits = int(((target == number) & (predicted == number)).sum())
        interval = binomtest(hits, int(scores.support[number])).proportion_ci(method="wilson")
        assert (scores.recall.low[number], scores.recall.high[number]) == pytest.approx((interval.low, interval.high))
        assert scores.f1.low[number] < scores.f1.value[number] < scores.f1.high[number]
    assert np.isnan([scores.recall.low[-1], scores.precision.high[-1], scores.f1.value[-1]]).all()


def test_a_share_of_all_or_none_has_an_interval_too():
    target = np.zeros(20, np.int64)
    scores = class_scores(one_hot(target), one_hot(target))
    assert (scores.recall.value[0], scores.recall.high[0]) == (1, 1)
    assert 0.8 < scores.recall.low[0] < 0.9


def test_intervals_of_f1_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    joint = np.array([[0.25, 0.1], [0.05, 0.6]])  # of the class and said to be: .25; F1 = .5 / .65
    held = 0
    for _ in range(400):
        cell = rng.choice(4, size=150, p=joint.ravel())
        rows = class_scores((cell < 2)[:, None], (cell % 2 == 0)[:, None])
        held += rows.f1.low[0] <= 0.5 / 0.65 <= rows.f1.high[0]
    assert 0.92 < held / 400 < 0.98


def test_samples_of_one_group_count_as_fewer():
    target, predicted = drawn(60)
    alone = class_scores(one_hot(target), one_hot(predicted), np.arange(60))
    plain = class_scores(one_hot(target), one_hot(predicted))
    assert np.allclose(alone.recall.low, plain.recall.low, atol=0.02, equal_nan=True)
    copies = np.repeat(np.arange(60), 5)  # five times the same sample say no more than one
    repeated = class_scores(one_hot(target[copies]), one_hot(predicted[copies]), copies)
    for name in ("precision", "recall", "f1"):
        one, many = getattr(plain, name), getattr(repeated, name)
        assert np.allclose(one.high - one.low, many.high - many.low, atol=0.02, equal_nan=True)
    certain = class_scores(np.ones((60, 1), bool), np.ones((60, 1), bool), np.repeat(np.arange(6), 10))
    assert certain.recall.low[0] == pytest.approx(binomtest(6, 6).proportion_ci(method="wilson").low)

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss

from cache.errors import UsageError
from stages.tasks.base import evaluate
from stages.tasks.calibration import brier_scores, calibration_error, reliability
from stages.tasks.multi_label import MultiLabel
from stages.tasks.single_label import SingleLabel

RNG = np.random.default_rng(0)


def draw(samples, overconfidence=0.0, seed=0):
    """Confidences as of a good model, and what came of them."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(6, 1.5, size=samples)
    return confidence, rng.random(samples) < confidence - overconfidence


def test_confidences_that_are_what_they_say_have_hardly_any_error_however_few_they_are():
    for samples in (100, 300, 3000):
        squares = [calibration_error(*draw(samples, seed=seed)) ** 2 for seed in range(200)]
        plain = []
        for seed in range(200):
            bins = reliability(*draw(samples, seed=seed))
            plain.append(np.average((bins.confidence - bins.right) ** 2, weights=bins.counts))
        # clipped at 0 a third of what is not debiased is left, and its root is below a point where samples are many
        assert np.mean(squares) < 0.5 * np.mean(plain)
    assert np.sqrt(np.mean(squares)) < 0.015


def test_the_error_is_by_how_much_confidences_are_too_high():
    errors = [calibration_error(*draw(2000, 0.1, seed)) for seed in range(50)]
    assert np.mean(errors) == pytest.approx(0.1, abs=0.01)


def test_the_order_of_samples_changes_nothing_where_many_have_the_same_confidence():
    confidence, right = draw(500)
    confidence = confidence.round(1)
    order = RNG.permutation(500)
    assert calibration_error(confidence, right) == calibration_error(confidence[order], right[order])
    assert reliability(np.ones(40), np.ones(40, bool)).counts.tolist() == [40]


def test_bins_hold_as_many_samples_each_and_their_bars_what_chance_gives():
    bins = reliability(*draw(1500))
    assert bins.counts.tolist() == [100] * 15
    assert np.array_equal(bins.low, binom.ppf(0.025, 100, bins.confidence) / 100)
    outside = [reliability(*draw(1500, seed=seed)).outside / 15 for seed in range(100)]
    assert 0.01 < np.mean(outside) < 0.06
    assert reliability(*draw(1500, 0.15)).outside > 8
    assert len(reliability(*draw(30)).counts) == 1


@pytest.mark.parametrize("classes", [2, 5])
def test_the_brier_score_is_scikit_learns(classes):
    probabilities = RNG.dirichlet(np.ones(classes), size=200)
    target = RNG.integers(classes, size=200)
    expected = brier_score_loss(target, probabilities, labels=range(classes), scale_by_half="auto")
    assert brier_scores(probabilities, target[:, None] == np.arange(classes)).mean() == pytest.approx(expected)


def statistics_of(task, probabilities, target):
    names = [("probabilities", np.float64, (2,)), ("target", target.dtype, target.shape[1:])]
    names += [("predicted", bool, (2,))] * (task.name == "multi_label")
    statistics = np.zeros(len(target), np.dtype(names))
    statistics["probabilities"], statistics["target"] = probabilities, target
    return statistics


def test_results_have_both_and_neither_the_error_nor_what_only_orders_is_chosen_by():
    confidence, right = draw(2000, 0.1)
    one = SingleLabel(["a", "b"])
    scores = evaluate(one, statistics_of(one, np.stack([confidence, 1 - confidence], 1), (~right).astype(np.int64)))
    assert scores["ece"] > 0.05
    assert scores["brier"] == pytest.approx(np.mean((confidence - right) ** 2))
    with pytest.raises(UsageError, match="`metric` ece does not say how good predictions are"):
        one.with_primary("ece")
    assert one.with_primary("brier").primary == "brier"


def test_of_labels_each_that_is_known_counts():
    confidence, right = draw(2000, 0.1)
    labels = MultiLabel(["a", "b"])
    target = np.stack([right.astype(np.float32), np.full(2000, np.nan, np.float32)], axis=1)
    scores = evaluate(labels, statistics_of(labels, np.stack([confidence, confidence], 1), target))
    assert scores["brier"] == pytest.approx(np.mean((confidence - right) ** 2))
    assert scores["ece"] == pytest.approx(calibration_error(confidence, right))

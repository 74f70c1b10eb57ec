import numpy as np
import pytest

from stages.tasks.decisions import least_possible, possible_classes, threshold_for_cost, threshold_for_recall


def drawn(samples, seed):
    rng = np.random.default_rng(seed)
    is_positive = rng.random(samples) < 0.3
    return 1 / (1 + np.exp(-rng.normal(np.where(is_positive, 1.0, -1.0)))), is_positive


def test_the_next_positive_is_found_as_often_as_the_recall_says():
    scores, is_positive = drawn(4000, 99)
    recalls = [(scores[is_positive] >= threshold_for_recall(*drawn(200, seed), 0.9)).mean() for seed in range(300)]
    assert 0.895 < np.mean(recalls) < 0.925
    assert threshold_for_recall(np.array([0.9, 0.1]), np.ones(2, bool), 0.9) == 0  # two promise no nine in ten
    scores = np.arange(19) / 19
    assert threshold_for_recall(scores, np.ones(19, bool), 0.95) == scores[0]
    assert threshold_for_recall(scores, np.ones(19, bool), 0.9) == scores[1]


def cost(scores, is_positive, threshold, missed, false_alarm):
    found = scores >= threshold
    return missed * (is_positive & ~found).sum() + false_alarm * (~is_positive & found).sum()


@pytest.mark.parametrize("costs", [(5, 1), (1, 1), (1, 20), (1000, 1)])
def test_no_other_threshold_costs_less_on_the_same_images(costs):
    for seed in range(10):
        scores, is_positive = drawn(60, seed)
        chosen = cost(scores, is_positive, threshold_for_cost(scores, is_positive, *costs), *costs)
        assert chosen == min(cost(scores, is_positive, value, *costs) for value in (*scores, 0.0, 1.0))


def test_of_thresholds_that_cost_the_same_it_is_the_one_of_calibrated_probabilities():
    scores, is_positive = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert threshold_for_cost(scores, is_positive, 1, 1) == 0.5
    rng = np.random.default_rng(0)
    scores = rng.random(20000)
    calibrated = rng.random(20000) < scores
    assert threshold_for_cost(scores, calibrated, 4, 1) == pytest.approx(0.2, abs=0.03)


def test_sets_hold_the_true_class_as_often_as_promised_and_are_as_small_as_can_be():
    rng = np.random.default_rng(0)

    def sample(count):
        probabilities = rng.dirichlet(np.full(5, 0.4), size=count)
        return probabilities, np.array([rng.choice(5, p=row) for row in probabilities])

    test, true = sample(4000)
    held, sizes = [], []
    for _ in range(50):
        possible = possible_classes(test, least_possible(*sample(300), 0.8))
        held.append(possible[np.arange(len(true)), true].mean())
        sizes.append(possible.sum(axis=1).mean())
    assert 0.785 < np.mean(held) < 0.83  # of 4,000 test samples
    assert np.mean(sizes) < 2.2
    assert possible_classes(np.array([[0.4, 0.35, 0.25]]), 0.9).tolist() == [[True, False, False]]
    assert possible_classes(test[:1], least_possible(*sample(3), 0.9)).all()  # three samples promise nothing

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from stages.tasks.weighted_scores import (
    WeightedMean,
    weighted_area_under_roc,
    weighted_average_precision,
    weighted_median,
    weighted_rank_correlation,
)


def draws(random, n, resamples=25):
    return np.stack([np.bincount(random.integers(n, size=n), minlength=n) for _ in range(resamples)]).astype(float)


def plainly(score, counts, *columns):
    """Return a score of each resample that is made, nan where it is not defined."""
    rows = np.arange(counts.shape[1])
    return [score(*(column[np.repeat(rows, times)] for column in columns)) for times in counts.astype(int)]


def precision_of(positive, scores):
    return average_precision_score(positive, scores) if positive.any() else np.nan


def area_of(positive, scores):
    return roc_auc_score(positive, scores) if 0 < positive.sum() < len(positive) else np.nan


def correlation_of(target, prediction):
    if len(set(target)) == 1:
        return np.nan
    return spearmanr(target, prediction)[0] if len(set(prediction)) > 1 else 0.0


@pytest.mark.parametrize("n", [1, 2, 7, 60])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_resamples_given_as_counts_score_as_those_that_are_made(n, decimals):
    random = np.random.default_rng(n + decimals)
    rows, counts = np.arange(n), draws(random, n)
    scores, others = (np.round(random.normal(size=n), decimals).astype(np.float32) for _ in range(2))
    for share in (0.0, 0.2, 0.8, 1.0):
        positive = random.random(n) < share
        for weighted, plain in ((weighted_average_precision, precision_of), (weighted_area_under_roc, area_of)):
            ours = WeightedMean([weighted(positive, scores, rows, n)])(counts)
            assert ours == pytest.approx(plainly(plain, counts, positive, scores), rel=1e-12, nan_ok=True)
    correlation = WeightedMean([weighted_rank_correlation(scores, others, rows, n)])(counts)
    assert correlation == pytest.approx(
        plainly(correlation_of, counts, scores, others), rel=1e-9, abs=1e-12, nan_ok=True
    )
    assert WeightedMean([weighted_median(others, rows, n)])(counts).tolist() == plainly(np.median, counts, others)


def test_a_mean_is_over_the_scores_that_are_defined_for_a_resample():
    rows = np.arange(3)
    first, second = (
        weighted_average_precision(np.array(positive), np.array([3.0, 2.0, 1.0]), rows, 3)
        for positive in ([False, True, False], [False, False, True])
    )
    counts = np.array([[1.0, 1, 1], [2, 1, 0], [3, 0, 0]])
    assert WeightedMean([first, second])(counts) == pytest.approx([(1 / 2 + 1 / 3) / 2, 1 / 3, np.nan], nan_ok=True)
    assert WeightedMean([first, second]).work == 6


def test_a_score_may_be_of_some_rows_and_of_a_row_more_than_once():
    random = np.random.default_rng(0)
    rows = np.array([4, 1, 1, 0, 4, 2])
    positive, scores = random.random(6) < 0.5, random.normal(size=6)
    counts = draws(random, 6)
    ours = WeightedMean([weighted_average_precision(positive, scores, rows, 6)])(counts)
    assert ours == pytest.approx(plainly(precision_of, counts[:, rows], positive, scores), nan_ok=True)
    assert weighted_average_precision(positive, scores, rows, 6).copies == 2


def test_counts_beyond_the_whole_numbers_of_float32_stay_exact():
    counts = np.array([[2.0**25 + 1, 2.0**25 - 1, 3.0]])
    ours = WeightedMean([weighted_average_precision(np.array([False, True, False]), np.arange(3.0), np.arange(3), 3)])
    assert ours(counts)[0] == pytest.approx(counts[0, 1] / counts[0, 1:].sum(), rel=1e-15)


def test_many_resamples_are_scored_in_blocks():
    random = np.random.default_rng(0)
    n = 20_000
    counts = random.poisson(1, size=(70, n)).astype(float)
    positive, scores = random.random(n) < 0.1, random.normal(size=n)
    ours = WeightedMean([weighted_area_under_roc(positive, scores, np.arange(n), n)])(counts)
    for index in (0, 31, 32, 69):
        expected = roc_auc_score(positive, scores, sample_weight=counts[index])
        assert ours[index] == pytest.approx(expected, rel=1e-12)

"""The evidence, against the density of the targets that it is: a normal one of n dimensions, maximized directly."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from stages.inspection.logme import logme


def direct(features, target):
    """log N(y; 0, I / b + F F' / a) / n at its maximum."""
    count = len(target)

    def negative(logarithms):
        alpha, beta = np.exp(logarithms)
        covariance = np.eye(count) / beta + features @ features.T / alpha
        return -multivariate_normal(np.zeros(count), covariance, allow_singular=True).logpdf(target)

    starts = [(0.0, 0.0), (3.0, 1.0), (-3.0, 2.0)]
    return -min(minimize(negative, start, method="Nelder-Mead", tol=1e-9).fun for start in starts) / count


@pytest.mark.parametrize("shape", [(40, 6), (25, 60)])
def test_it_is_the_maximum_of_the_density_of_the_targets(shape):
    numbers = np.random.default_rng(0)
    features = numbers.normal(size=shape)
    targets = np.column_stack(
        [features[:, :3] @ [1.0, -2.0, 0.5] + numbers.normal(0, 0.7, len(features)), features[:, 1] > 0.2]
    ).astype(float)
    expected = np.mean([direct(features, column) for column in targets.T])
    assert logme(features, targets) == pytest.approx(expected, abs=1e-3)


def test_features_that_say_more_of_the_targets_have_more_evidence_and_useless_ones_add_none():
    numbers = np.random.default_rng(1)
    labels = np.eye(3)[numbers.integers(3, size=120)]
    clear, faint = (labels @ numbers.normal(size=(3, 20)) + numbers.normal(0, noise, (120, 20)) for noise in (0.5, 4))
    assert logme(clear, labels) > logme(faint, labels)
    assert logme(clear, labels) > logme(np.hstack([clear, numbers.normal(size=(120, 300))]), labels)


def test_what_is_not_known_of_a_sample_takes_no_part():
    numbers = np.random.default_rng(2)
    features, targets = numbers.normal(size=(30, 5)), numbers.normal(size=(30, 2))
    partly = targets.copy()
    partly[20:, 1] = np.nan
    alone = np.mean([logme(features, targets[:, :1]), logme(features[:20], targets[:20, 1:])])
    assert logme(features, partly) == pytest.approx(alone)


def test_targets_that_features_explain_wholly_have_a_finite_evidence():
    features = np.random.default_rng(3).normal(size=(20, 4))
    assert np.isfinite(logme(features, features[:, :1]))
    assert np.isfinite(logme(np.zeros((5, 3)), np.ones((5, 1))))

import numpy as np
import pytest
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.proportion import proportion_confint

from stages.tasks.proportions import difference_of_shares, mcnemar, wilson

NORMAL = norm.ppf(0.975)


@pytest.mark.parametrize(("hits", "number"), [(0, 168), (168, 168), (1, 3), (17, 30), (2990, 3000)])
def test_wilsons_interval_is_that_of_statsmodels_and_has_a_width_at_0_and_at_1(hits, number):
    low, high = wilson(hits / number, number, NORMAL)
    assert (low, high) == pytest.approx(proportion_confint(hits, number, method="wilson"))
    assert high - low > 0.002
    assert (low == 0.0, high == 1.0) == (hits == 0, hits == number)


@pytest.mark.parametrize("number", [30, 100, 300, 1000, 3000])
def test_wilsons_interval_covers_accuracies_of_a_half_to_99_percent(number):
    """Exactly, by the binomial distribution: the bootstrap held 95 % of 30 images in 78 of 100 cases."""
    hits, shares = np.arange(number + 1), np.linspace(0.5, 0.99, 50)
    ends = np.array([wilson(hit / number, number, NORMAL) for hit in hits.tolist()])
    held = [
        binom.pmf(hits, number, share)[(ends[:, 0] <= share) & (share <= ends[:, 1])].sum() for share in shares.tolist()
    ]
    assert min(held) >= 0.9
    assert 0.94 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(("only_a", "only_b"), [(10, 2), (5, 0), (3, 3), (0, 0), (40, 10)])
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    expected = mcnemar_of_statsmodels([[20, only_a], [only_b, 20]], exact=True).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) == pytest.approx(expected)


def test_the_interval_of_a_difference_holds_0_just_where_the_test_does_not_reject():
    """It said "-30.0 to -3.3, p = 0.062, within what chance gives"."""
    for number, differing in ((9, 9), (30, 8), (30, 9), (400, 25)):
        for only_a in range(differing + 1):
            low, high = difference_of_shares(only_a, differing - only_a, number)
            value = (2 * only_a - differing) / number
            assert low <= value <= high
            assert (low > 0 or high < 0) == (mcnemar(only_a, differing - only_a) < 0.05)


def test_where_no_image_differs_the_interval_says_what_remains_possible():
    squared = NORMAL**2
    expected = squared / (100 + squared)  # Tango's interval has this form there
    assert difference_of_shares(0, 0, 100) == pytest.approx((-expected, expected), abs=1e-6)


def test_the_interval_of_a_difference_covers():
    """Over all counts of 60 images, of which one is right on a share of the images, and the other on another."""
    number, of_a, of_b = 60, 0.14, 0.06
    held = total = 0.0
    for differing in range(26):
        for only_a in range(differing + 1):
            chance = binom.pmf(differing, number, of_a + of_b) * binom.pmf(only_a, differing, of_a / (of_a + of_b))
            if chance < 1e-5:
                continue
            low, high = difference_of_shares(only_a, differing - only_a, number)
            total += chance
            held += chance * (low <= of_a - of_b <= high)
    assert total > 0.99
    assert 0.94 < held / total < 0.99

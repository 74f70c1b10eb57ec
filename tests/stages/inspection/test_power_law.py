"""Power laws that are known are found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.inspection.power_law import PowerLaw, fit_power_law

SIZES = np.array([20, 40, 80, 160, 320, 640])


@settings(max_examples=15, deadline=None)
@given(st.floats(0.7, 0.98), st.floats(0.05, 0.3), st.floats(0.2, 1.0))
def test_a_law_is_found_from_points_on_it(limit, gap_at_first, exponent):
    law = PowerLaw(limit, gap_at_first * 20.0**exponent, exponent)
    found = fit_power_law(SIZES, law(SIZES), np.full(len(SIZES), 0.01))
    assert found(SIZES) == pytest.approx(law(SIZES), abs=2e-3)
    assert found(1280) == pytest.approx(law(1280), abs=0.01)


def test_a_size_counts_by_how_sure_its_accuracy_is():
    law = PowerLaw(0.9, 1.0, 0.5)
    accuracies = law(SIZES)
    accuracies[2] -= 0.2
    errors = np.full(len(SIZES), 0.005)
    misled = fit_power_law(SIZES, accuracies, errors)
    errors[2] = 10.0
    found = fit_power_law(SIZES, accuracies, errors)
    assert abs(found(80) - law(80)) < 0.005 < 0.03 < abs(misled(80) - law(80))


def test_the_limit_is_an_accuracy_and_accuracy_does_not_fall():
    rising = fit_power_law(SIZES, np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), np.full(6, 0.01))
    falling = fit_power_law(SIZES, np.array([0.9, 0.85, 0.8, 0.75, 0.7, 0.65]), np.full(6, 0.01))
    for law in (rising, falling):
        assert 0 <= law.limit <= 1
        assert law.scale >= 0
        assert (np.diff(law(SIZES)) >= 0).all()


def test_where_to_begin_changes_nothing_of_the_answer():
    law = PowerLaw(0.9, 1.0, 0.5)
    errors = np.full(len(SIZES), 0.01)
    begun = fit_power_law(SIZES, law(SIZES), errors, start=PowerLaw(0.85, 1.5, 0.6))
    assert begun(1280) == pytest.approx(fit_power_law(SIZES, law(SIZES), errors)(1280), abs=1e-3)


def test_three_sizes_do_not_tell_three_parameters():
    with pytest.raises(ValueError, match="needs 4 sizes, not 3"):
        fit_power_law(SIZES[:3], np.array([0.5, 0.6, 0.7]), np.full(3, 0.01))

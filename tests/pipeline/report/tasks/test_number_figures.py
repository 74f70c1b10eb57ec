import numpy as np
import pytest

from pipeline.report.tasks.number_figures import predicted_against_true, residuals


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[2.0], [3.0, 3.0], [0.001, 5e9], list(range(1, 400))])
def test_any_numbers_have_both_plots_on_axes_with_named_numbers(values, log):
    true = np.array(values, dtype=np.float64)
    for figure in (
        predicted_against_true(true, true * 1.1, (true, true * 2), log=log, name="price"),
        residuals(true, true * 1.1, 0.2, log=log, name="price"),
    ):
        (axes,) = figure.axes
        figure.canvas.draw()
        shown = [label.get_text() for label in axes.get_xticklabels() if label.get_text()]
        assert shown
        assert len(set(shown)) == len(shown)
        assert axes.get_xscale() == ("log" if log else "linear")


def test_a_prediction_that_is_right_lies_on_the_line():
    figure = predicted_against_true(np.array([1.0, 3.0]), np.array([1.0, 3.0]), None, log=False, name="age")
    line, points = figure.axes[0].lines
    assert (points.get_xdata() == points.get_ydata()).all()
    assert list(line.get_xdata()) == list(line.get_ydata())
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()

from dataclasses import replace

import numpy as np

from stages.tasks.regression import Regression
from tests.pipeline.finished_runs import add, of_task
from tests.pipeline.report.pages import report

AGE = Regression(("age",), (40.0,), (10.0,), interval=(0.5,))
TRUE = np.linspace(-2, 2, 9)[:, None]
OFF = TRUE + np.array([0.1, -0.1, 0.2, -0.2, 0.6, 0.1, -0.3, 0.2, 0.1])[:, None]


def test_a_number_has_its_plots_intervals_and_largest_errors(tmp_path):
    tried = [{"C": c, "score": 0.5 + c} for c in (0.1, 0.2)]
    add(tmp_path, of_task(AGE, OFF, TRUE), name="ridge", val=0.9, selection=tried)
    add(tmp_path, of_task(replace(AGE, interval=(1.0,)), OFF + 0.5, TRUE), method="head", name="mlp", val=0.5)
    page = report(tmp_path, drawn="")
    assert "predicted: age; 100 images to train on" in page.words
    assert "Always saying the median of the test images would be off by 11.11 on average." in page.words
    assert "ridge 88.9 10" in page.words
    assert "MLP 88.9 20" in page.words
    assert "predicted 46 41 to 51 labelled 40 4.png" in page.words.replace("46", "46 ").replace("  ", " ")
    assert "0.2 0.700 0.1 0.600" in page.words  # what was tried, in the metric's own scale
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"predicted-ridge.png", "residuals-ridge.png", "predicted-MLP.png", "residuals-MLP.png"} < names
    for absent in ("Confusion", "logarithmic, as", "McNemar"):
        assert absent not in page.words


def test_of_a_logarithm_the_axes_are_logarithmic_and_errors_are_ratios(tmp_path):
    task = Regression(("price",), (13.0,), (0.5,), log=True, interval=(np.log(2) / 0.5,))
    add(tmp_path, of_task(task, OFF, TRUE))
    words = report(tmp_path, drawn="").words
    assert "Axes are logarithmic" in words
    assert "furthest off for, by the ratio" in words
    assert "logistic 100.0" in words
    assert " 4.00 " in words  # upper over lower end


def test_levels_have_confusions_beside_the_plots(tmp_path):
    task = Regression(("grade",), (1.0,), (1.0,), levels=("poor", "fair", "good"))
    add(tmp_path, of_task(task, [[-1.0], [0.2], [0.1], [1.0]], [[-1.0], [0.0], [1.0], [1.0]]))
    words = report(tmp_path).words
    assert "predicted: grade, one of 3 levels" in words
    assert "poor fair good poor 100 %1 0 0 fair 0 100 %1 0 good 0 50 %1 50 %1" in words
    assert "Prediction intervals" not in words
    assert "labelled good" in words


def test_several_numbers_have_plots_of_their_own_and_what_is_unknown_plays_no_part(tmp_path):
    task = Regression(("x", "y"), (0.0, 0.0), (1.0, 1.0), interval=(0.5, 0.5))
    true = np.hstack([TRUE, TRUE * 2])
    true[4, 0] = np.nan
    add(tmp_path, of_task(task, np.hstack([OFF, 2 * OFF]), true))
    page = report(tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"predicted-logistic-x.png", "predicted-logistic-y.png"} < names
    assert "logistic x 100.0 1" in page.words
    assert "logistic y 77.8 1" in page.words
    assert "y: predicted" in page.words

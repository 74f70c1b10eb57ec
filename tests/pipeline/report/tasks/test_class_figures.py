import numpy as np
import pytest

from pipeline.report.tasks.class_figures import precision_over_recall, reliability_diagram, roc
from stages.tasks.calibration import reliability

RNG = np.random.default_rng(0)
TARGET = RNG.random(200) < 0.3
SCORES = 1 / (1 + np.exp(-RNG.normal(np.where(TARGET, 1.0, -1.0))))


@pytest.mark.parametrize("draw", [roc, precision_over_recall])
def test_a_threshold_is_marked_where_the_curve_has_it(draw):
    value = float(np.sort(SCORES)[120])
    axes = draw(TARGET, SCORES, [(value, "at the threshold")], "defective").axes[0]
    _, curve, mark = axes.get_lines()
    points = np.array(curve.get_data()).T
    assert np.abs(points - np.array(mark.get_data()).T).sum(axis=1).min() < 0.02
    assert axes.get_legend().get_texts()[0].get_text() == "at the threshold"


def test_the_share_that_is_right_stands_over_the_confidence_above_how_often_it_comes():
    confidence, right = np.maximum(SCORES, 1 - SCORES), (SCORES > 0.5) == TARGET
    bins = reliability(confidence, right)
    axes, below = reliability_diagram(bins, confidence).axes
    assert np.array_equal(axes.get_lines()[1].get_data(), [bins.confidence, bins.right])
    assert sum(bar.get_height() for bar in below.patches) == 200

"""What a probe says is in the words, and on the scale, of the metric that the cuts are scored by."""

import numpy as np
import pytest

from pipeline.report.layer_probe import ProbeReport
from pipeline.report.probe_figures import score_against_depth
from stages.inspection.layer_probe import CutScore, LayerProbe
from stages.inspection.sample_scores import scored_samples
from stages.tasks.base import find_metric
from stages.tasks.regression import Regression
from tests.stages.fitting.rows_of_digits import numbered_classes


def report_of(metric, *samples):
    cuts = (CutScore(f"cut{n}", f"cut{n}", n, 8, 16, 10 * n, 90, (one,), metric) for n, one in enumerate(samples, 1))
    return ProbeReport(LayerProbe(tuple(cuts), (0,)), None, None, [])


def predicted(noise):
    true = np.arange(-20.0, 20.0)[:, None]
    return scored_samples(Regression(), true + noise * (-1.0) ** np.arange(40)[:, None], true)


def test_numbers_are_told_in_r2_and_not_in_percent():
    report = report_of(find_metric(Regression()), predicted(6.0), predicted(2.0))
    best = report.probe.best
    assert report.verdict[0] == (
        f"Cut at cut2: no cut has a better validation R² than {best.score:.3f}, and no cheaper one is within one "
        "standard error of it on the same images."
    )
    loss = report.probe.losses[0]
    assert report.verdict[2].startswith(f"The best of the cheaper cuts is cut1: -{loss.value:.3f}, 95 % interval -")
    assert f"{best.score:.3f} ± {best.standard_error:.3f}" in report.table
    assert "validation R²" in report.table
    axes = score_against_depth(report.probe).axes[0]
    assert axes.get_title(loc="left") == "validation R²"
    assert axes.yaxis.get_major_formatter()(0.95, 0) == "0.95"


def test_accuracy_is_told_in_percent_and_its_error_in_points():
    right = np.arange(100) < 90
    report = report_of(find_metric(numbered_classes(2)), right[::-1] & (np.arange(100) > 40), right)
    assert "better validation accuracy than 90.0 %" in report.verdict[0]
    assert "90.0 % ± 3.0" in report.table
    assert "The best of the cheaper cuts is cut1: -31.0 points, 95 % interval " in report.verdict[2]
    assert "against the best" in report.table


def test_a_cheaper_cut_is_recommended_with_what_it_loses_to_the_best():
    right = np.arange(100) < 90
    report = report_of(find_metric(numbered_classes(2)), np.roll(right, 1), right)
    assert report.verdict[0].startswith("Cut at cut1: ")
    other = report_of(find_metric(numbered_classes(2)), np.roll(right, 3) & (np.arange(100) != 50), right)
    assert other.verdict[0].startswith(
        "Cut at cut1: its validation accuracy of 89.0 % is not told apart from the best, cut2 with 90.0 %, on the same "
        "images (-1.0 points, 95 % interval "
    )
    assert other.verdict[2].startswith("Of cut2: its trunk takes ")
    assert other.row(other.probe.cuts[0])["below_best"] == pytest.approx(0.01)
    assert score_against_depth(report.probe).axes[0].yaxis.get_major_formatter()(0.95, 0) == "95 %"


@pytest.mark.parametrize(
    "metric", [find_metric(Regression()), find_metric(numbered_classes(2))], ids=["r2", "accuracy"]
)
def test_one_cut_alone_is_no_recommendation(metric):
    samples = predicted(2.0) if metric.name == "r2" else np.arange(10) < 9
    assert report_of(metric, samples).verdict[0].startswith(f"One cut was probed, cut1: validation {metric.label} ")

"""A curve is told, and drawn, on the scale of its metric."""

import csv

import numpy as np

from pipeline.report.learning_curve import CurveReport, score_against_images, write_curve
from stages.inspection.learning_curve import LearningCurve
from stages.inspection.sample_scores import scored_samples
from stages.tasks.base import find_metric
from stages.tasks.regression import Regression


def curve_of(noises):
    true = np.arange(-20.0, 20.0)[:, None]
    sign = (-1.0) ** np.arange(40)[:, None]
    samples = [[scored_samples(Regression(), true + noise * sign, true)] * 2 for noise in noises]
    samples[0][0] = None
    return LearningCurve(np.array([4, 8, 16]), samples, find_metric(Regression()))


def test_a_curve_of_numbers_is_in_r2_and_a_draw_without_a_score_is_empty(tmp_path):
    curve = curve_of([6.0, 4.0, 2.0])
    report = CurveReport(curve, None, "ridge")
    assert "validation R², ridge" in report.table
    assert f"  {curve.means[2]:.3f}  {curve.means[2]:.3f} to {curve.means[2]:.3f}" in report.table
    write_curve(report, tmp_path)
    with (tmp_path / "learning-curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["r2"] for row in rows[:2]] == ["", f"{curve.scores[0, 1]:.6f}"]
    axes = score_against_images(report).axes[0]
    assert axes.yaxis.get_major_formatter()(0.5, 0) == "0.5"
    assert axes.get_ylim()[0] > 0


def test_a_score_far_below_zero_does_not_flatten_the_others():
    axes = score_against_images(CurveReport(curve_of([60.0, 6.0, 2.0]), None, "ridge")).axes[0]
    assert axes.get_ylim() == (-1, 1.05)
    assert "scores below -1 are not shown" in [text.get_text() for text in axes.texts]

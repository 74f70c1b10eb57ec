"""A curve is told, and drawn, on the scale of its metric."""

import csv
from dataclasses import replace

import numpy as np

from pipeline.report.learning_curve import CurveReport, score_against_images, write_curve
from stages.inspection.extrapolation import Check, Extrapolation, Interval
from stages.inspection.learning_curve import LearningCurve
from stages.inspection.power_law import PowerLaw
from stages.inspection.sample_scores import scored_samples
from stages.tasks.base import find_metric
from stages.tasks.regression import Regression
from tests.pipeline.report.pages import Page


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


def test_a_curve_that_failed_its_check_shows_no_score_beyond_what_was_measured(tmp_path):
    curve, sizes = curve_of([6.0, 4.0, 2.0]), np.array([4.0, 16.0, 160.0])
    expected = {size: Interval(0.9, 0.8, 0.95) for size in (32, 64, 160)}
    law, band = PowerLaw(0.95, 1.0, 1.0), (sizes, np.full(3, 0.1), np.full(3, 0.9))
    gains = {2: Interval(0.01, 0.0, 0.02)}
    whole = Extrapolation(law, Interval(0.95, 0.9, 1.0), expected, gains, band, True, None)
    failed = replace(whole, check=Check(0.4, 0.9, Interval(0.5, 0.3, 0.7)))
    shown = {}
    for name, extrapolation in (("whole", whole), ("failed", failed)):
        report = CurveReport(curve, extrapolation, "ridge")
        write_curve(report, tmp_path / name)
        axes = score_against_images(report).axes[0]
        drawn_to = max(line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) > 0)
        in_file = (tmp_path / name / "learning-curve.csv").read_text().count("extrapolated")
        shown[name] = ("0.900 (0.800 to 0.950)" in report.table, in_file, drawn_to)
    assert shown == {"whole": (True, 3, 160), "failed": (False, 0, 16)}


def test_the_page_has_the_answer_for_its_heading_and_the_numbers_of_the_table(tmp_path):
    report = CurveReport(curve_of([6.0, 4.0, 2.0]), None, "ridge", title="<i>photos", notes=["split made here"])
    page = Page(write_curve(report, tmp_path))
    assert report.answer[0] in page.words
    assert "<i>photos" in page.words
    assert "split made here" in page.words
    assert "power law a" in page.words
    assert "power law (95" not in page.words  # without one there is no column for it
    assert all(cell in page.words for row in report.rows for cell in row)
    assert report.summary in [element.get("aria-label") for element in page.all("div")]
    assert f"{report.rows[2][1]} with 16" in report.summary

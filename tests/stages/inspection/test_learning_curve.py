"""Measured curves, and curves of a known power law."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cache.errors import DataError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.inspection.extrapolation import Check, Interval, conclusion, extrapolate
from stages.inspection.learning_curve import LearningCurve, curve_sizes, measure_curve, stratified_order
from stages.inspection.power_law import PowerLaw, fit_power_law
from stages.tasks.base import find_metric
from stages.tasks.regression import Regression
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes

ACCURACY = find_metric(numbered_classes(2))
RIDGE = HeadConfig(head=("ridge",), scalers=("standard",))


def drawn(law, sizes, draws=5, images=3000, seed=0):
    """A curve whose validation images are right with the law's probability."""
    generator = np.random.default_rng(seed)
    chances = law(np.array(sizes))
    right = generator.random((len(sizes), draws, images)) < chances[:, None, None]
    return LearningCurve(np.array(sizes), right, ACCURACY)


KNOWN = PowerLaw(0.93, 1.4, 0.45)
SIZES = np.unique(np.geomspace(20, 2000, 9).round().astype(int))


def test_a_power_law_without_noise_is_recovered():
    fitted = fit_power_law(SIZES, KNOWN(SIZES), np.full(len(SIZES), 0.01))
    assert fitted.limit == pytest.approx(0.93, abs=1e-3)
    assert fitted.exponent == pytest.approx(0.45, abs=0.01)
    assert fitted(40_000) == pytest.approx(KNOWN(40_000), abs=1e-3)


def test_a_known_power_law_lies_within_the_interval_that_widens_with_the_distance():
    """A 95 % interval may miss; of twelve curves, three misses would be one chance in fifty."""
    inside = {2: 0, 10: 0}
    for seed in range(12):
        extrapolation = extrapolate(drawn(KNOWN, SIZES, seed=seed), seed, replicates=80)
        for factor in inside:
            at = extrapolation.at[factor * SIZES[-1]]
            inside[factor] += at.low <= KNOWN(factor * SIZES[-1]) <= at.high
        widths = [interval.high - interval.low for interval in extrapolation.at.values()]
        assert widths == sorted(widths)
        _, low, high = extrapolation.band
        assert (high - low)[-1] > (high - low)[60]
    assert min(inside.values()) >= 10


def test_a_rising_curve_asks_for_labels_and_a_flat_one_does_not():
    rising = drawn(PowerLaw(0.98, 1.5, 0.3), SIZES)
    assert conclusion(rising, extrapolate(rising, 0, 60))[0].startswith("More labels would help")
    flat = drawn(PowerLaw(0.9, 3.0, 1.2), SIZES, images=8000)
    assert conclusion(flat, extrapolate(flat, 0, 60))[0].startswith("More labels would hardly help")


def test_a_curve_that_does_not_bend_says_that_its_end_is_not_determined():
    straight = drawn(PowerLaw(1.0, 1.0, 0.1), SIZES[:6], images=300)
    extrapolation = extrapolate(straight, 0, 60)
    assert not extrapolation.identified
    assert "is not determined" in " ".join(conclusion(straight, extrapolation))
    bent = extrapolate(drawn(KNOWN, SIZES, images=20_000), 0, 60)
    assert bent.identified
    assert bent.limit.low <= 0.93 <= bent.limit.high


def test_too_few_sizes_are_not_fitted():
    curve = drawn(KNOWN, SIZES[:3])
    assert extrapolate(curve, 0) is None
    assert "cannot be said" in conclusion(curve, None)[0]


def test_the_check_predicts_all_from_half():
    extrapolation = extrapolate(drawn(KNOWN, SIZES, images=20_000), 0, 20)
    check = extrapolation.check
    assert check.measured == pytest.approx(KNOWN(2000), abs=0.005)
    assert check.predicted == pytest.approx(check.measured, abs=0.02)
    assert check.predicted != check.measured
    assert check.miss.value == check.measured - check.predicted
    assert check.miss.low <= check.miss.value <= check.miss.high
    assert extrapolation.holds


@pytest.mark.parametrize("images", [60, 3000])
def test_a_curve_that_fails_its_own_check_answers_nothing(images):
    """Flat at 53.7 % up to half of the images, 77.8 % with all: no power law, whatever its fit says beyond."""
    curve = drawn(lambda sizes: np.where(sizes > 1500, 0.778, 0.537), SIZES, images=images)
    extrapolation = extrapolate(curve, 0, 60)
    assert extrapolation.check.predicted == pytest.approx(0.537, abs=0.1)
    assert extrapolation.check.measured == pytest.approx(0.778, abs=0.1)
    assert not extrapolation.holds
    answer = conclusion(curve, extrapolation)
    assert answer[0].startswith("It cannot be said whether more labels would help: the power law that would say it ")
    assert f"predicts {100 * extrapolation.check.predicted:.1f} % for all of them" in answer[0]
    assert f"from 1,125 to 2,000 images accuracy went from {100 * curve.means[-2]:.1f} % to" in answer[1]
    assert "More labels" not in " ".join(answer)


def test_a_miss_by_chance_alone_is_no_failure_and_a_small_sure_one_is():
    assert not Check(0.80, 0.83, Interval(0.03, -0.01, 0.07)).failed
    assert Check(0.80, 0.83, Interval(0.03, 0.01, 0.05)).failed
    assert not Check(0.80, 0.808, Interval(0.008, 0.006, 0.01)).failed
    assert Check(0.80, 0.74, Interval(-0.06, -0.12, 0.01)).failed


def test_of_too_few_smaller_sizes_it_is_said_that_nothing_was_checked():
    curve = drawn(KNOWN, SIZES[5:])
    extrapolation = extrapolate(curve, 0, 10)
    assert extrapolation.check is None
    assert any(line.startswith("This could not be checked") for line in conclusion(curve, extrapolation))


@pytest.mark.parametrize("counts", [(50, 50, 50), (200, 20, 3, 1)])
def test_every_beginning_of_a_draw_is_stratified(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, seed=0)
    assert sorted(order) == list(range(len(labels)))
    least = sum(min(count, 2) for count in counts)
    assert np.bincount(labels[order[:least]]).tolist() == [min(count, 2) for count in counts]
    for size in range(least, len(labels)):
        share = np.bincount(labels[order[:size]], minlength=len(counts)) - size * np.array(counts) / len(labels)
        assert np.abs(share).max() <= len(counts) + 2
    assert not np.array_equal(order, stratified_order(labels, seed=1))


def test_sizes_go_from_two_of_each_class_to_all():
    sizes = curve_sizes(np.arange(1000) % 10)
    assert (sizes[0], sizes[-1]) == (20, 1000)
    assert np.allclose(np.diff(np.log(sizes)), np.log(50) / 8, atol=0.1)
    with pytest.raises(DataError, match="too few for a learning curve"):
        curve_sizes(np.arange(30) % 10)


@pytest.fixture(scope="module")
def measured():
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels / 16).astype(np.float16)
    order = np.random.default_rng(0).permutation(len(labels))
    train, val = (FeatureRows(features[part], labels[part]) for part in (order[:700], order[1000:]))
    return train, val, measure_curve("ridge", fit_problem(train, val, classes=10, options=RIDGE), draws=3)


def test_more_digits_are_learned_better(measured):
    *_, curve = measured
    mean = curve.scores.mean(axis=1)
    assert mean[0] < 0.8
    assert mean[-1] > 0.9
    assert mean[-1] - mean[0] > 0.2
    right = np.array(curve.samples)
    assert right.shape == (9, 3, 797)
    assert (right[-1, 0] == right[-1, 1]).all()
    assert (right[0, 0] != right[0, 1]).any()
    assert (curve.errors > 0).all()


def test_the_validation_split_judges_and_does_nothing_else(measured):
    """With other validation labels the same predictions are made: those that were right are right no more."""
    train, val, curve = measured
    wrong_labels = replace(val, labels=(val.labels + 1) % 10)
    wrong = measure_curve("ridge", fit_problem(train, wrong_labels, classes=10, options=RIDGE), draws=2)
    assert not (np.array(wrong.samples) & np.array(curve.samples)[:, :2]).any()


def levels(rows, values):
    """Rows of three ordered classes, and what a head is fitted to for them."""
    places = np.searchsorted([-0.5, 0.5], values)
    task = Regression(("grade",), (1.0,), (1.0,), levels=("low", "middle", "high"))
    return replace(problem_of(rows, places - 1.0, options=QUICK), task=task)


QUICK = HeadConfig(head=("ridge",), scalers=("standard",), c_values=(0.01, 1.0))


@pytest.mark.parametrize(
    ("problem", "label", "unit"),
    [
        (problem_of(*labelled(100, unknown=0.1), options=QUICK), "mAP", " points"),
        (problem_of(*numbered(100, unknown=0.1), options=QUICK), "R²", ""),
        (levels(*numbered(100, targets=1)), "quadratic kappa", ""),
    ],
    ids=["labels", "numbers", "ordered classes"],
)
def test_every_task_has_a_curve_of_its_primary_metric(problem, label, unit):
    curve = measure_curve("ridge", problem, draws=2)
    assert curve.metric.label == label
    assert curve.means[-1] > curve.means[0]
    assert (curve.scores[-1] == curve.metric.score(curve.samples[-1][0])).all()
    assert (curve.errors > 0).all()
    extrapolation = extrapolate(curve, 0, 5)
    assert extrapolation.at[150].low <= extrapolation.at[150].high <= 1
    answer = conclusion(curve, replace(extrapolation, check=None))  # so few samples need not pass it
    assert re.search(rf"would change {label} by [+-]\d+\.\d+{unit} \(95", answer[0])


def test_a_draw_without_a_head_or_a_score_is_left_out_and_said():
    """Of 60 numbers 57 are the same: most draws of few images hold one and the same, of which nothing is learned."""
    rows, numbers = numbered(80, targets=1)
    numbers[:57] = 1.0
    curve = measure_curve("ridge", problem_of(rows, numbers, options=QUICK), draws=4)
    assert None in curve.samples[0]
    assert np.isnan(curve.scores[0]).sum() == curve.samples[0].count(None)
    assert np.isnan(curve.errors).tolist() == (~curve.is_measured).tolist()
    assert not np.isnan(curve.scores[-1]).any()
    said = conclusion(curve, extrapolate(curve, 0, 5))[-1]
    assert said.startswith("Left out are draws of too few images")
    assert f"{curve.samples[0].count(None)} of {curve.sizes[0]} images" in said


def test_a_metric_that_no_validation_image_defines_is_refused():
    problem = problem_of(*labelled(60), options=QUICK)
    nothing = replace(problem.val, labels=np.zeros_like(problem.val.labels))
    with pytest.raises(DataError, match="mAP is not defined on these 15 validation images"):
        measure_curve("ridge", replace(problem, val=nothing), draws=2)


def test_first_in_a_draw_are_two_images_with_each_label_and_two_without():
    membership = np.random.default_rng(0).random((80, 4)) < [0.9, 0.5, 0.1, 0.05]
    counts = membership.sum(axis=0)
    smallest = curve_sizes(membership)[0]
    assert smallest < np.minimum(counts, 2).sum() + np.minimum(80 - counts, 2).sum()  # one image has several
    order = stratified_order(membership, seed=0)
    assert sorted(order) == list(range(80))
    for side in (membership, ~membership):
        assert (side[order[: smallest + 2]].sum(axis=0) >= np.minimum(side.sum(axis=0), 2)).all()
    assert not np.array_equal(order, stratified_order(membership, seed=1))
    with pytest.raises(DataError, match="7 training images of 4 labels are too few"):
        curve_sizes(membership[:7])

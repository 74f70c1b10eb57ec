import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cache.errors import DataError, UsageError
from stages.tasks.base import evaluate, task_from_json
from stages.tasks.regression import Regression

UNKNOWN = float("nan")
PRICE = Regression(("price",), (13.0,), (0.7,), log=True)
TWO = Regression(("width", "height"), (10.0, -2.0), (2.0, 0.5))
SIZES = Regression(levels=("small", "medium", "large"))
THIRDS = Regression(levels=("0", "0.3333", "0.6667", "1"))


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@settings(deadline=None, max_examples=80)
def test_numbers_come_back_from_the_scale_on_which_they_are_predicted(values, mean, scale):
    task = Regression(("a", "b"), (mean, 0.0), (scale, 1.0))
    text = "|".join(map(repr, values))
    loaded = task.load(text)
    assert loaded.dtype == torch.float64
    for target in (loaded, task.load(task.decode(loaded))):  # twelve digits as text
        original = target.numpy() * task.scale + task.mean
        assert original == pytest.approx(values, rel=1e-11, abs=1e-14 * (abs(mean) + scale))


def test_text_is_in_the_original_unit_and_of_several_numbers_one_may_be_unknown():
    assert PRICE.load("529000").item() == pytest.approx((np.log(529000) - 13) / 0.7)
    assert PRICE.decode(PRICE.load("529000")) == "529000"
    assert np.array_equal(TWO.load(" 12 | "), [1, UNKNOWN], equal_nan=True)
    assert TWO.decode(TWO.load("|-2.25")) == "|-2.25"


def test_levels_that_are_numbers_keep_their_values_and_words_are_ranks():
    assert [THIRDS.load(word).item() for word in ("0", "0.3333", "1.0")] == [0, 0.3333, 1]
    assert [SIZES.load(word).item() for word in ("small", "large")] == [0, 2]
    assert [THIRDS.decode(torch.tensor([value])) for value in (-3.0, 0.4, 0.6, 7.0)] == ["0", "0.3333", "0.6667", "1"]
    assert [SIZES.decode(SIZES.load(word)) for word in SIZES.levels] == list(SIZES.levels)
    assert THIRDS.primary == SIZES.primary == "qwk"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PRICE.load("-3"), "'-3' has no logarithm: with `log_target` every number is above 0"),
        (lambda: PRICE.load("cheap"), "'cheap' is not a number"),
        (lambda: PRICE.load("inf"), "'inf' is not a number"),
        (lambda: PRICE.load(""), "'' is not a number"),
        (lambda: TWO.load("3"), r"'3' is not 2 numbers"),
        (lambda: SIZES.load("huge"), "'huge' is none of small, medium, large"),
        (lambda: THIRDS.load("0.5"), "'0.5' is none of 0, 0.3333"),
        (lambda: Regression(levels=("a",)), "two or more, and each is there once: a"),
        (lambda: Regression(levels=("a", "b", "a")), "each is there once"),
        (lambda: Regression(levels=("1", "3", "2")), "which are in no order"),
        (lambda: Regression(levels=("0", "1"), log=True), "have no logarithms"),
        (lambda: Regression(("a", "b"), (0.0, 0.0), (1.0, 1.0), levels=("1", "2")), "ordered classes are one target"),
        (lambda: Regression(scale=(0.0,)), "a scale is above 0"),
        (lambda: Regression(mean=(UNKNOWN,)), "finite"),
        (lambda: Regression(interval=(1.0, 2.0)), "2 intervals are not those of 1 numbers"),
    ],
)
def test_what_is_no_such_target_or_task_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_levels_may_be_numbered_from_the_best_down():
    assert Regression(levels=("3", "2", "1")).decode(torch.tensor([1.1])) == "1"


def test_loss_is_torchs_huber_over_the_numbers_that_are_known():
    output = torch.tensor([[0.5, 3.0], [-1.0, 0.2], [9.0, 9.0]])
    target = torch.tensor([[0.0, 0.0], [1.0, UNKNOWN], [UNKNOWN, UNKNOWN]], dtype=torch.float64)
    expected = [
        functional.huber_loss(output[0], torch.zeros(2)).item(),
        functional.huber_loss(output[1, 0], torch.tensor(1.0)).item(),
        0.0,
    ]
    assert TWO.loss(output, target, reduction="none").tolist() == pytest.approx(expected)
    assert TWO.mean_loss(output.double().numpy(), target.numpy()) == pytest.approx(sum(expected) / 3)
    output.requires_grad_()
    TWO.loss(output, target).backward()
    assert torch.equal(output.grad == 0, target.isnan())


def test_numbers_have_no_classes_to_smooth_or_weigh():
    with pytest.raises(UsageError, match="label smoothing and weights of classes"):
        TWO.loss(torch.zeros(1, 2), torch.zeros(1, 2), smoothing=0.1)
    with pytest.raises(UsageError, match="label smoothing and weights of classes"):
        TWO.loss(torch.zeros(1, 2), torch.zeros(1, 2), class_weights=torch.ones(2))
    assert TWO.weights(np.zeros((3, 2))) is None


def test_a_statistic_is_in_the_original_unit():
    task = Regression(("price",), (13.0,), (0.7,), log=True, interval=(0.5,))
    statistics = task.statistic(
        task.activate(torch.tensor([[0.1], [-1.0]])), torch.stack([task.load("5e5"), task.load("1e5")])
    )
    assert statistics["prediction"].ravel() == pytest.approx(np.exp([13.07, 12.3]), rel=1e-6)
    assert statistics["target"].ravel() == pytest.approx([5e5, 1e5])
    assert statistics["low"].ravel() == pytest.approx(np.exp([13.07 - 0.35, 12.3 - 0.35]), rel=1e-6)
    assert statistics["high"].ravel() == pytest.approx(np.exp([13.07 + 0.35, 12.3 + 0.35]), rel=1e-6)
    assert task.labels(statistics).tolist() == ["500000", "100000"]
    assert len(task.cells(statistics[0])) == len(task.columns) == 4
    assert np.isnan(PRICE.statistic(torch.zeros(1, 1), torch.zeros(1, 1))["low"]).all()
    with pytest.raises(DataError, match="not finite"):
        task.statistic(torch.tensor([[UNKNOWN]]), torch.zeros(1, 1))


@pytest.mark.parametrize("n", [9, 19, 40, 129])
def test_intervals_hold_nine_tenths_of_new_samples_over_many_draws(n):
    random = np.random.default_rng(n)
    shares = []
    for _ in range(400):
        target = random.standard_t(4, size=(n + 300, 1))
        activated = 0.5 * target + random.normal(size=target.shape)
        task = Regression().calibrated(*map(torch.from_numpy, (activated[:n], target[:n])))
        statistics = task.statistic(*map(torch.from_numpy, (activated[n:], target[n:])))
        shares.append(task.metrics["interval_coverage"].score(statistics))
    expected = -(-(n + 1) * 9 // 10) / (n + 1)  # exact for every distribution without ties
    assert np.mean(shares) == pytest.approx(expected, abs=4 * np.std(shares) / np.sqrt(len(shares)))


def test_half_widths_are_the_right_order_statistic_for_every_number_of_samples():
    for n in (9, 10, 19, 99, 129, 1009, 9999):
        task = Regression().calibrated(torch.arange(1.0, n + 1)[:, None], torch.zeros(n, 1))
        assert task.interval == (-(-(n + 1) * 9 // 10),)
    assert Regression().calibrated(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)).interval == (2.0,)


def test_each_target_has_an_interval_of_its_own_from_the_samples_where_it_is_known():
    activated = torch.arange(40.0).reshape(20, 2)
    target = torch.zeros(20, 2, dtype=torch.float64)
    target[5:, 1] = UNKNOWN
    assert TWO.calibrated(activated, target).interval == (36.0, 9.0)
    target[:, 1] = UNKNOWN
    assert TWO.calibrated(activated, target).interval is None


def test_the_scale_is_that_of_the_training_samples_whatever_it_was_before():
    values = np.random.default_rng(0).lognormal(13, 0.7, 50)
    for start in (Regression(("price",), log=True), PRICE):
        targets = np.stack([start.load(repr(float(value))).numpy() for value in values])
        task = start.scaled_to(targets)
        assert task.mean + task.scale == pytest.approx((np.log(values).mean(), np.log(values).std()))
    known = np.array([[1.0, UNKNOWN], [3.0, 5.0], [UNKNOWN, 9.0]])
    assert Regression(("a", "b"), (0.0, 0.0), (1.0, 1.0)).scaled_to(known).mean == (2.0, 7.0)


def test_a_constant_target_is_refused():
    with pytest.raises(DataError, match="the target height is the same for all training samples"):
        TWO.scaled_to(np.array([[1.0, 0.1], [2.0, 0.1]]))


def test_intervals_and_scale_make_no_other_task_and_are_kept_with_it():
    task = Regression(("price",), (13.0,), (0.7,), log=True, interval=(0.4,))
    for restored in (task_from_json(json.loads(json.dumps(task.to_json()))), pickle.loads(pickle.dumps(task))):
        assert restored == task
        assert hash(restored) == hash(task)
        assert restored.metrics.keys() == task.metrics.keys()
    assert task != PRICE
    assert task.uncalibrated() == PRICE.uncalibrated()
    assert task_from_json(SIZES.to_json()) == SIZES
    with pytest.raises(DataError, match="needs targets"):
        task_from_json({"name": "regression"})


def test_strata_are_parts_of_the_range_and_none_is_rare():
    numbers = np.random.default_rng(0).lognormal(size=(535, 1))
    strata = Regression().strata(numbers)
    assert len(np.unique(strata)) == 10
    assert np.bincount(strata).min() >= 40
    assert (np.diff(strata[np.argsort(numbers[:, 0])]) >= 0).all()
    mostly_zero = np.concatenate([np.zeros(90), [-1, -2, 5], np.arange(10, 17)])[:, None]
    counts = np.bincount(Regression().strata(mostly_zero))
    assert counts.min() >= 10
    assert np.bincount(SIZES.strata(np.repeat([0.0, 1.0, 2.0], [30, 20, 1])[:, None])).tolist() == [30, 21]
    assert Regression().strata(np.arange(15.0)[:, None]).tolist() == [0] * 15
    unknown = np.full((40, 1), UNKNOWN)
    unknown[:20, 0] = np.arange(20)
    assert len(np.unique(Regression().strata(unknown)[20:])) == 1


@pytest.mark.parametrize(
    ("half_width", "output", "said"),
    [
        (3.8, 0.9, "medium  (small to large)"),
        (0.9, 0.2, "small  (small to medium)"),
        (0.5, 1.4, "medium  (only medium)"),
        (0.1, 0.4, "small  (only small)"),  # in whose interval there is none
        (0.4, 1.6, "large  (only large)"),
    ],
)
def test_the_interval_of_a_level_is_told_in_levels(half_width, output, said):
    """A number below the lowest of them says nothing to anybody; the table has it."""
    sizes = replace(SIZES, interval=(half_width,))
    assert sizes.predicted_words(torch.tensor([output])) == said
    assert [float(cell) for cell in sizes.predicted_cells(torch.tensor([output]))[1:]] == pytest.approx(
        [output - half_width, output + half_width]
    )
    assert SIZES.predicted_words(torch.tensor([output])) == said.split()[0]


def test_levels_have_a_confusion_matrix_and_numbers_none():
    statistics = SIZES.statistic(torch.tensor([[0.2], [1.7], [9.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    assert SIZES.confusion(statistics).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert SIZES.cells(statistics[1])[:2] == ["medium", "large"]
    assert PRICE.confusion(PRICE.statistic(torch.zeros(1, 1), torch.zeros(1, 1))) is None


def test_what_a_constant_or_single_target_leaves_undefined_is_nan_and_the_rest_is_not():
    scores = evaluate(TWO, TWO.statistic(torch.rand(4, 2), torch.zeros(4, 2)))
    assert {name for name, value in scores.items() if np.isnan(value)} == {"r2", "spearman", "interval_coverage"}


def test_guesses_are_the_mean_and_the_median():
    task = Regression(("x",), (1.0,), (2.0,))
    target = torch.tensor([[0.0], [0.0], [6.0]], dtype=torch.float64)
    known = task.statistic(target * 0, target)  # 1, 1 and 13 in the unit
    mean, median = task.guesses(known, known)
    assert mean["prediction"].tolist() == [[5.0]] * 3
    assert median["prediction"].tolist() == [[1.0]] * 3
    assert task.metrics["r2"].score(mean) == pytest.approx(0.0)

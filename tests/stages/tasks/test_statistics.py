import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, rankdata
from sklearn.metrics import r2_score, roc_auc_score

from stages.tasks import statistics
from stages.tasks.base import Metric, mean_metric, sum_metric
from stages.tasks.multi_label import MultiLabel
from stages.tasks.paired import compare
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel
from stages.tasks.statistics import percentile_interval, replicates, score_of_choosing
from stages.tasks.units import Units

TASK = SingleLabel("abc")
ABSOLUTE = mean_metric("mae", "MAE", lambda rows: np.abs(rows[:, 0] - rows[:, 1]), higher_is_better=False)


def _r2_summands(rows):
    predicted, true = rows.T
    return np.stack([np.ones(len(rows)), true, true**2, (true - predicted) ** 2], axis=1)


def _r2(sums):
    count, total, squares, residual = sums
    return 1 - residual / (squares - total**2 / count)


R2 = sum_metric("r2", "R²", _r2_summands, _r2)
SPEARMAN = Metric("spearman", "Spearman", lambda rows: float(np.corrcoef(rankdata(rows, axis=0).T)[0, 1]))


def classes(seed, n, skill=1.0):
    random = np.random.default_rng(1000)  # the same truth for all
    target = random.integers(3, size=n)
    logits = np.random.default_rng(seed).normal(size=(n, 3)) + skill * np.eye(3)[target]
    return TASK.statistic(torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(target))


def numbers(seed, n, noise=1.0):
    """Return predictions and true numbers, float64 [n, 2]."""
    true = np.random.default_rng(1000).normal(size=n)
    return np.stack([true + noise * np.random.default_rng(seed).normal(size=n), true], axis=1)


def bootstrap_interval(metric, rows, groups=None, *, seed=0, resamples):
    return percentile_interval(replicates(metric, (rows,), Units.of(len(rows), groups), seed, resamples)[0])


def bootstrap_difference(metric, a, b, groups=None, *, resamples):
    return percentile_interval(np.subtract(*replicates(metric, (a, b), Units.of(len(a), groups), resamples=resamples)))


def mean_log_loss(rows):
    return -np.log(rows["probabilities"][np.arange(len(rows)), rows["target"]]).mean()


@pytest.mark.parametrize(
    ("metric", "rows", "score"),
    [
        (TASK.metrics["f1_macro"], classes(0, 150), TASK.metrics["f1_macro"].score),
        (TASK.metrics["log_loss"], classes(0, 150), mean_log_loss),
        (TASK.metrics["auc_macro"], classes(0, 60), TASK.metrics["auc_macro"].score),
        (R2, numbers(0, 120), R2.score),
        (ABSOLUTE, numbers(0, 120), lambda rows: np.abs(rows[:, 0] - rows[:, 1]).mean()),
        (SPEARMAN, numbers(0, 120), SPEARMAN.score),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_interval_of_any_metric_is_the_percentile_bootstrap_of_scipy(metric, rows, score):
    resamples = 1000
    reference = bootstrap(
        (np.arange(len(rows)),),
        lambda index: score(rows[index]),
        vectorized=False,
        method="percentile",
        n_resamples=resamples,
        rng=np.random.default_rng(1),
    )
    ours = bootstrap_interval(metric, rows, resamples=resamples)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert ours == pytest.approx(reference.confidence_interval, abs=0.15 * width)


@pytest.mark.parametrize("metric", [TASK.metrics["f1_macro"], TASK.metrics["log_loss"], TASK.metrics["auc_macro"]])
def test_interval_over_groups_is_the_one_of_drawing_whole_groups(metric):
    random = np.random.default_rng(3)
    rows = classes(0, 60)[np.repeat(np.arange(60), random.integers(1, 6, 60))]
    groups = np.unique(rows["probabilities"][:, 0], return_inverse=True)[1]
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    score = mean_log_loss if metric.name == "log_loss" else metric.score
    scores = [
        score(rows[np.concatenate([members[group] for group in random.integers(len(members), size=len(members))])])
        for _ in range(1000)
    ]
    low, high = np.quantile(scores, [0.025, 0.975])
    ours = bootstrap_interval(metric, rows, [f"patient {group}" for group in groups], resamples=1000)
    assert ours == pytest.approx((low, high), abs=0.15 * (high - low))
    alone = bootstrap_interval(metric, rows, resamples=1000)
    assert high - low > 1.2 * (alone[1] - alone[0])  # what forgetting the groups would claim


@pytest.mark.parametrize("metric", [TASK.metrics["accuracy"], TASK.metrics["f1_macro"], TASK.metrics["auc_macro"]])
def test_what_two_differ_by_is_that_of_common_draws(metric):
    a, b = classes(0, 80, 2.0), classes(1, 80, 0.5)
    random = np.random.default_rng(0)
    draws = [random.integers(80, size=80) for _ in range(1000)]
    low, high = np.quantile([metric.score(a[draw]) - metric.score(b[draw]) for draw in draws], [0.025, 0.975])
    assert bootstrap_difference(metric, a, b, resamples=1000) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_metrics_of_these_tests_are_the_ones_they_are_called():
    rows = numbers(0, 50)
    assert R2.score(rows) == pytest.approx(r2_score(rows[:, 1], rows[:, 0]))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_renaming_the_groups_or_one_group_a_sample_changes_nothing(groups, seed):
    rows = classes(seed, len(groups))
    for name in ("accuracy", "f1_macro"):
        metric = TASK.metrics[name]
        renamed = [f"patient {group}" for group in groups]
        assert bootstrap_interval(metric, rows, groups, resamples=50) == bootstrap_interval(
            metric, rows, renamed, resamples=50
        )
        assert bootstrap_interval(metric, rows, resamples=50) == bootstrap_interval(
            metric, rows, np.arange(len(rows)), resamples=50
        )


def test_resamples_without_a_score_are_left_out_and_none_at_all_gives_nan():
    one_of_two = np.array([[0.3, 0.7]] * 9 + [[0.6, 0.4]])
    task = SingleLabel("ab")
    rows = task.statistic(torch.from_numpy(one_of_two), torch.tensor([1] * 9 + [0]))
    low, high = bootstrap_interval(task.metrics["auc_macro"], rows, resamples=200)  # a third has no sample of class 0
    assert (low, high) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(task.metrics["auc_macro"], rows[:9], resamples=20)).all()


def test_memory_does_not_grow_with_the_resamples_and_portions_change_no_number(monkeypatch):
    rows = numbers(0, 20_000)
    whole = {metric.name: bootstrap_interval(metric, rows, resamples=200) for metric in (ABSOLUTE, R2)}
    monkeypatch.setattr(statistics, "_NUMBERS_AT_ONCE", 1 << 16)
    tracemalloc.start()
    for metric in (ABSOLUTE, R2):
        assert bootstrap_interval(metric, rows, resamples=200) == pytest.approx(whole[metric.name], rel=1e-12)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # a table of resamples by samples: 32e6
    tracemalloc.stop()


def test_statistics_of_unlike_numbers_of_samples_or_groups_are_refused():
    rows = numbers(0, 10)
    with pytest.raises(ValueError, match="not those of the same samples"):
        compare(R2, rows, rows[:9])
    with pytest.raises(ValueError, match="3 groups for 10 samples"):
        bootstrap_interval(R2, rows, [0, 1, 2], resamples=10)
    with pytest.raises(ValueError, match="nothing to draw"):
        bootstrap_interval(R2, rows[:0], resamples=10)


def test_auc_of_two_classes_keeps_its_interval_under_groups_of_one_sample():
    task = SingleLabel("ab")
    random = np.random.default_rng(0)
    target = random.integers(2, size=50)
    probability = np.clip(random.normal(0.4 + 0.2 * target, 0.2), 0, 1)
    rows = task.statistic(torch.from_numpy(np.stack([1 - probability, probability], axis=1)), torch.from_numpy(target))
    low, high = bootstrap_interval(task.metrics["auc_macro"], rows, resamples=200)
    assert low < roc_auc_score(target, probability) < high


LABELS = MultiLabel(["a", "b", "c"])
NUMBERS = Regression(("x", "y"), (0.0, 0.0), (1.0, 1.0))


def labels(seed, n):
    random = np.random.default_rng(1000)
    target = (random.random((n, 3)) < 0.4).astype(np.float32)
    target[random.random((n, 3)) < 0.1] = np.nan
    logits = np.random.default_rng(seed).normal(size=(n, 3)) + np.nan_to_num(target)
    return LABELS.statistic(LABELS.activate(torch.from_numpy(logits)), torch.from_numpy(target))


def pairs_of_numbers(seed, n):
    target = np.random.default_rng(1000).normal(size=(n, 2))
    target[::7, 1] = np.nan
    prediction = np.nan_to_num(target) + np.random.default_rng(seed).normal(size=(n, 2))
    return NUMBERS.statistic(torch.from_numpy(prediction), torch.from_numpy(target))


OF_RANKS = [
    *((LABELS.metrics[name], labels) for name in ("map_macro", "map_micro", "auc_macro")),
    *((NUMBERS.metrics[name], pairs_of_numbers) for name in ("median_relative_error", "spearman")),
]


@pytest.mark.parametrize(("metric", "make"), OF_RANKS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("grouped", [False, True])
def test_a_metric_of_ranks_has_the_intervals_of_scoring_each_resample_anew(metric, make, grouped):
    a, b = make(0, 40), make(1, 40)
    groups = np.arange(40) // 3 if grouped else None
    plain = replace(metric, weighted=None)
    assert metric.weighted is not None
    for seed in range(2):
        assert bootstrap_interval(metric, a, groups, seed=seed, resamples=60) == pytest.approx(
            bootstrap_interval(plain, a, groups, seed=seed, resamples=60)
        )
    assert bootstrap_difference(metric, a, b, groups, resamples=60) == pytest.approx(
        bootstrap_difference(plain, a, b, groups, resamples=60)
    )


def test_of_many_ranks_fewer_resamples_are_made_and_never_too_few(monkeypatch):
    metric, rows = LABELS.metrics["map_macro"], labels(0, 30)
    made = []
    weighted = metric.weighted(rows)

    class Counting:
        work = weighted.work

        def __call__(self, counts):
            made.append(len(counts))
            return weighted(counts)

    counted = replace(metric, weighted=lambda _: Counting())
    monkeypatch.setattr(statistics, "_FEWEST_RESAMPLES", 20)
    for most_work, expected in ((10**9, 100), (50 * weighted.work, 50), (1, 20)):
        monkeypatch.setattr(statistics, "_MOST_WORK", most_work)
        made.clear()
        bootstrap_interval(counted, rows, resamples=100)
        assert sum(made) == expected


def test_a_mean_is_resampled_by_its_samples_scores_and_not_computed_anew():
    made, units = classes(0, 40), Units.of(40, np.arange(40) // 2)
    (scores,) = replicates(TASK.metrics["log_loss"], (made,), units, resamples=50)
    anew = replace(TASK.metrics["log_loss"], per_sample=None)
    assert scores == pytest.approx(replicates(anew, (made,), units, resamples=50)[0], rel=1e-5)
    refused = replace(TASK.metrics["log_loss"], score=None)
    assert np.array_equal(scores, replicates(refused, (made,), units, resamples=50)[0])


def right_with_chance(chance, methods, samples, seed):
    """Methods that are right with that chance each, whatever they have been chosen by: [methods, samples, 2]."""
    right = np.random.default_rng(seed).random((methods, samples)) < chance
    return [np.stack([1.0 * of_method, np.ones(samples)], axis=1) for of_method in right]


@pytest.mark.parametrize("images", [1, 3])
def test_the_luck_of_the_best_of_many_is_taken_off(images):
    """Twenty methods that are all right four times in five: what the best of them scores elsewhere is that."""
    best, expected = [], []
    groups = np.arange(300).repeat(images)
    for seed in range(60):
        methods = [rows.repeat(images, axis=0) for rows in right_with_chance(0.8, 20, 300, seed)]
        best.append(max(1 - ABSOLUTE.score(rows) for rows in methods))
        expected.append(1 - score_of_choosing(ABSOLUTE, methods, Units.of(300 * images, groups)))
    assert np.mean(best) > 0.83
    assert np.mean(expected) == pytest.approx(0.8, abs=0.008)


def test_a_method_that_is_far_ahead_is_chosen_by_no_luck():
    methods = [*right_with_chance(0.7, 5, 400, 0), *right_with_chance(0.9, 1, 400, 1)]
    errors = [ABSOLUTE.score(rows) for rows in methods]
    assert score_of_choosing(ABSOLUTE, methods, Units.of(400, None)) == min(errors)


def test_what_choosing_comes_to_is_the_same_of_a_metric_that_is_no_mean():
    """The R2 of one resample after the other, from sums and from scores."""
    random = np.random.default_rng(0)
    true = random.normal(size=200)
    methods = [np.stack([true + random.normal(0, 0.5, 200), true], axis=1) for _ in range(6)]
    slow = Metric("r2", "R²", R2.score)
    found = score_of_choosing(R2, methods, Units.of(200, None))
    assert found == pytest.approx(score_of_choosing(slow, methods, Units.of(200, None)))
    assert found < max(R2.score(rows) for rows in methods)


def test_of_one_method_or_few_units_nothing_is_taken_off():
    (rows, other) = right_with_chance(0.8, 2, 30, 0)
    assert score_of_choosing(ABSOLUTE, [rows], Units.of(30, None)) == ABSOLUTE.score(rows)
    best = min(ABSOLUTE.score(rows), ABSOLUTE.score(other))
    assert score_of_choosing(ABSOLUTE, [rows, other], Units.of(30, np.arange(30) % 9)) == best
    assert score_of_choosing(ABSOLUTE, [rows, other], Units.of(30, np.arange(30) % 10)) > best

"""Torch heads: rates and decays that are tried, classes of unlike sizes, smoothing, and the refit on all rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import CutonceError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting.epochs.torch_heads import _HeadsSideBySide, fit_torch_head
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.standardize import Standardizer
from stages.network.heads.registry import build_head
from tests.stages.fitting.rows_of_digits import digits, fit_problem, skewed

QUICK = HeadConfig(fit_epochs=8, fit_lr=(1e-2,), fit_dropout=0.0)


def trained(options, train, val, name="linear", classes=10):
    return fit_torch_head(name, fit_problem(train, val, classes=classes, options=replace(options, hidden_dim=32)))


def predicted(head, rows):
    return head(torch.from_numpy(rows.features).float()).argmax(dim=1).numpy()


@pytest.mark.parametrize("name", ["linear", "concat"])
def test_the_rate_that_validates_best_is_chosen_and_every_one_is_told(name):
    train, val, _ = digits()
    result = trained(replace(QUICK, fit_lr=(1e-7, 1e-2), fit_weight_decay=(0.0, 0.1)), train, val, name)
    assert [(candidate["rate"], candidate["weight decay"]) for candidate in result.candidates] == [
        *((1e-7, 0.0), (1e-7, 0.1)),
        *((1e-2, 0.0), (1e-2, 0.1)),
    ]
    assert result.settings["rate"] == 1e-2
    best = max(result.candidates, key=lambda candidate: candidate["score"])
    assert (predicted(result.head_train_only, val) == val.labels).mean() == pytest.approx(best["score"])


def test_the_head_is_trained_again_on_all_rows():
    train, val, _ = digits()
    without_nines = train.labels != 9
    result = trained(QUICK, FeatureRows(train.features[without_nines], train.labels[without_nines]), val)
    assert result.settings["refitted on"].startswith("train+val")
    nines = val.features[val.labels == 9]
    # only a head that was trained on the validation rows too has ever seen a nine
    assert not (predicted(result.head_train_only, FeatureRows(nines, np.full(len(nines), 9))) == 9).any()
    assert (predicted(result.head, FeatureRows(nines, np.full(len(nines), 9))) == 9).mean() > 0.8


@pytest.mark.parametrize("means", [{"class_weights": "balanced"}, {"sampling": "balanced"}])
def test_rare_classes_are_found_more_often_when_they_weigh_as_much(means):
    rows, labels = skewed(count=1500, width=10, classes=2)
    rare = np.flatnonzero(labels == 0)[:60]
    kept = np.sort(np.concatenate([rare, np.flatnonzero(labels == 1)]))
    order = np.random.default_rng(0).permutation(kept)
    train, val = (FeatureRows(rows[part], labels[part]) for part in (order[:700], order[700:]))
    recalls = []
    for options in (QUICK, replace(QUICK, **means)):
        rare_predictions = predicted(trained(options, train, val, classes=2).head_train_only, val)[val.labels == 0]
        recalls.append((rare_predictions == 0).mean())
    assert recalls[1] > recalls[0] + 0.2


def test_label_smoothing_keeps_probabilities_from_the_extremes():
    train, val, _ = digits()
    options = replace(QUICK, fit_epochs=30, fit_patience=30)
    sure, smooth = (
        trained(replace(options, fit_label_smoothing=smoothing), train, val)
        .head(torch.from_numpy(val.features).float())
        .softmax(dim=1)
        .amax(dim=1)
        .mean()
        for smoothing in (0.0, 0.3)
    )
    assert smooth < sure - 0.1


def test_a_rate_whose_loss_is_lost_does_not_spoil_the_others():
    train, val, _ = digits()
    huge = (
        FeatureRows(train.features.astype(np.float32) * 1e18, train.labels),
        FeatureRows(val.features * np.float32(1e18), val.labels),
    )
    result = trained(
        replace(QUICK, fit_lr=(1e30, 1e-2)),
        *(FeatureRows(split_rows.features / np.float32(1e18), split_rows.labels) for split_rows in huge),
    )
    assert result.settings["rate"] == 1e-2
    with pytest.raises(CutonceError, match="`fit_lr`"):
        trained(replace(QUICK, fit_lr=(float("inf"),)), train, val)
    problem = fit_problem(train, val, classes=10, options=replace(QUICK, fit_lr=(float("inf"), 1e-7), fit_epochs=1))
    by_loss = fit_torch_head("linear", replace(problem, task=problem.task.with_primary("log_loss")))
    assert by_loss.settings["rate"] == 1e-7  # its log loss is some 2.3, and still better than none


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_steps_on_a_gpu_are_not_waited_for(pretended_cuda, weights):
    """It is asked once for what many steps came to: as often where they are eight times as many."""
    rows, labels = skewed(count=640, width=20)
    train, val = (FeatureRows(rows[part], labels[part]) for part in (slice(0, 512), slice(512, None)))

    def waits(batch_size):
        options = replace(QUICK, fit_batch_size=batch_size, class_weights=weights)
        problem = replace(fit_problem(train, val, classes=3, options=options), device=torch.device("cuda"))
        settings = [{"rate": rate, "weight decay": 0.0} for rate in (1e-2, 1e-3)]
        template = build_head("linear", (20,), 3, {"hidden": 8, "dropout": 0.0, "l2": False})
        heads = _HeadsSideBySide(template, settings, problem, train, Standardizer.fit(train))
        heads.train_epoch(1)
        before = pretended_cuda.synchronizations
        heads.train_epoch(2)
        return pretended_cuda.synchronizations - before

    assert waits(8) == waits(64) <= 8


def test_a_head_that_trains_on_a_gpu_comes_to_what_it_comes_to_on_cores(pretended_cuda):
    rows, labels = skewed(count=300, width=20)
    train, val = (FeatureRows(rows[part], labels[part]) for part in (slice(0, 240), slice(240, None)))
    problem = fit_problem(train, val, classes=3, options=replace(QUICK, fit_lr=(1e-2, 1e-3), fit_epochs=4))
    here, there = (
        fit_torch_head("linear", replace(problem, device=device))
        for device in (torch.device("cpu"), torch.device("cuda"))
    )
    assert here.settings == there.settings
    for epoch, other in zip(here.history, there.history, strict=True):
        assert epoch.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert epoch.train_score == pytest.approx(other.train_score, rel=1e-4)


def test_one_row_a_step_is_refused_where_rows_are_normalized_by_each_other():
    train, val, _ = digits(2)
    with pytest.raises(UsageError, match=r"`head` concat normalizes the rows of a batch.*`fit_batch_size` 1"):
        trained(HeadConfig(fit_batch_size=1), train, val, "concat", classes=2)

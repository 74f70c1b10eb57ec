"""The range test on a real network with BatchNorm, dropout and stochastic depth."""

import copy
import json
import random

import numpy as np
import pytest
import torch

from cache.errors import CutonceError, DataError, UsageError
from stages.runtime.progress import json_log, progress
from stages.training.config import TrainConfig
from stages.training.lr_finder import LRFinderResult, _running_mean, _steepest_descent, lr_find
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.optim import create_optimizer, layerwise_lrs, parameter_groups
from stages.training.train_loop import TrainRun, train
from tests.stages.training.networks import TASK, pictures, quick_network

IMAGES, LABELS = pictures(24)
BLOCKS = [("head", ["classifier"]), ("body", ["conv_stem", "bn1", "blocks", "conv_head", "bn2"])]


def batches(epoch, first):
    order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(epoch))
    return ((IMAGES[part], LABELS[part]) for part in order.split(8)[first:])


def run_of(model, optimizer, epochs=1, train_batches=batches):
    return TrainRun(model, optimizer, TrainConfig(epochs), TASK, train_batches, lambda: [(IMAGES, LABELS)])


def in_training(name="adamw", rate=1e-3):
    """A network and its optimiser after two steps, so that there are a state, statistics and gradients to lose."""
    model = quick_network(drop_rate=0.2, drop_path_rate=0.2)
    optimizer = create_optimizer(name, parameter_groups(model, layerwise_lrs(BLOCKS, rate, 0.1), 0.01))
    scheduler = make_schedule(optimizer, LRScheduleConfig("cosine", 0.0), 3, 20)
    one_pass = lambda epoch, first: list(batches(epoch, first))[:2]  # noqa: E731
    train(run_of(model, optimizer, train_batches=one_pass), scheduler)
    model.train()
    model.bn1.eval()
    return model, optimizer


def everything(model, optimizer):
    """All there is to be changed, copied."""
    gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    return (
        copy.deepcopy(model.state_dict()),
        gradients,
        copy.deepcopy(optimizer.state_dict()),
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    )


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("block", [None, "body"])
def test_nothing_is_changed_by_it(name, block):
    model, optimizer = in_training(name)
    before = everything(model, optimizer)
    result = lr_find(run_of(model, optimizer), steps=20, block=block)
    assert len(result.losses) > 1
    assert equal(before, everything(model, optimizer))


def test_nothing_is_changed_where_it_fails():
    model, optimizer = in_training()
    before = everything(model, optimizer)

    def failing(epoch, first):
        for number, batch in enumerate(batches(epoch, first)):
            random.random()
            np.random.rand()
            torch.rand(1)
            if number == 2:
                raise DataError("gone")
            yield batch

    with pytest.raises(DataError, match="gone"):
        lr_find(run_of(model, optimizer, train_batches=failing))
    assert equal(before, everything(model, optimizer))


def test_the_training_that_follows_is_the_one_that_would_have_been():
    ended = []
    for tested in (False, True):
        model = quick_network(drop_rate=0.2)
        optimizer = create_optimizer("sgd", parameter_groups(model, layerwise_lrs(BLOCKS, 1e-3, 0.1), 0.0))
        if tested:
            lr_find(run_of(model, optimizer, 2), steps=20)
        scheduler = make_schedule(optimizer, LRScheduleConfig("onecycle"), 3, 2)
        train(run_of(model, optimizer, 2), scheduler)
        ended.append(model.state_dict())
    assert equal(*ended)


def test_the_rate_rises_exponentially_until_the_loss_diverges():
    model, optimizer = in_training("momentum")
    result = lr_find(run_of(model, optimizer), lowest=1e-5, highest=1e3, steps=60)
    assert 10 < len(result.rates) < 60
    assert result.rates[0] == pytest.approx(1e-5)
    assert np.diff(np.log(result.rates)) == pytest.approx(np.log(1e8) / 59)
    lowest_so_far = np.minimum.accumulate(result.smoothed)
    assert (result.smoothed > 4 * lowest_so_far).tolist() == [False] * (len(result.rates) - 1) + [True]
    assert len(result.losses) == len(result.smoothed) == len(result.rates)
    assert result.smoothed[0] == result.losses[0]


def test_a_training_at_the_suggested_rate_learns_more_than_far_below_and_far_above():
    model, optimizer = in_training("momentum")
    range_test = lr_find(run_of(model, optimizer), lowest=1e-6, highest=10, steps=60)
    reached = {}
    for factor in (0.01, 1.0, 1000.0):
        trial, groups = quick_network(), []
        groups = parameter_groups(trial, layerwise_lrs(BLOCKS, range_test.suggestion * factor, 0.1), 0)
        trial_optimizer = create_optimizer("momentum", groups)
        scheduler = make_schedule(trial_optimizer, LRScheduleConfig("constant", 0.0), 3, 4)
        try:
            result = train(run_of(trial, trial_optimizer, 4), scheduler)
            reached[factor] = result.history[-1].train_loss
        except CutonceError:  # diverged
            reached[factor] = float("inf")
    assert reached[1.0] < 0.5 * min(reached[0.01], reached[1000.0])


def test_only_the_rate_of_the_block_that_is_tested_rises(monkeypatch):
    model, optimizer = in_training("momentum")
    now = [group["lr"] for group in optimizer.param_groups]
    seen = []

    step = torch.optim.SGD.step

    def noting(self, *arguments):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    tested = [group["block"] == "body" for group in optimizer.param_groups]
    result = lr_find(run_of(model, optimizer), lowest=1e-6, highest=1e-2, steps=20, block="body")
    assert result.block == "body"
    for rate, rates in zip(result.rates, seen, strict=True):
        assert rates == [rate if is_in_block else 0.0 for is_in_block in tested]
    seen.clear()
    result = lr_find(run_of(model, optimizer), lowest=1e-6, highest=1e-2, steps=20)
    for rate, rates in zip(result.rates, seen, strict=True):
        assert max(rates) == pytest.approx(rate)
        assert np.array(rates) / rate == pytest.approx(np.array(now) / max(now))


def test_frozen_layers_stay_out_of_it():
    model, optimizer = in_training("momentum")
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    before = everything(model, optimizer)
    result = lr_find(run_of(model, optimizer), lowest=1e-5, steps=60)
    assert result.suggestion is not None
    assert equal(before, everything(model, optimizer))


def test_a_loss_that_never_falls_suggests_nothing():
    model, optimizer = in_training("momentum")
    result = lr_find(run_of(model, optimizer), lowest=1e3, highest=1e6, steps=20)
    assert result.suggestion is None


def test_an_easy_batch_among_the_first_does_not_hide_that_the_loss_falls_later():
    rates = np.geomspace(1e-7, 1e-1, 61)
    smoothed = 1.0 - 0.5 / (1 + np.exp(-(np.arange(61) - 35.0)))  # falls around the 35th step
    smoothed[1], smoothed[50:] = 0.1, 2.0
    result = LRFinderResult(rates, smoothed, smoothed, None)
    assert result.lowest == 49
    assert _steepest_descent(result) == pytest.approx(rates[35])


def test_what_other_blocks_learn_is_not_taken_for_what_the_rate_of_one_does():
    """At the rates that it begins with the head alone makes the loss fall, from the first step on."""
    model, optimizer = in_training("momentum")
    for group in optimizer.param_groups:
        group["lr"] = 0.05 if group["block"] == "head" else group["lr"]
    beside = lr_find(run_of(model, optimizer), lowest=1e-9, highest=1e-7, steps=30, block="body")
    assert beside.suggestion is None


def test_a_rate_at_which_a_block_learns_again_after_it_was_thrown_about_is_not_suggested():
    rates = np.geomspace(1e-7, 1.0, 100)
    step = np.arange(100)
    losses = 0.8 - 0.5 / (1 + np.exp(-(step - 45) / 3.0)) + np.where(step >= 70, 1.5 * np.exp(-(step - 70) / 6.0), 0)
    losses += np.random.default_rng(0).normal(0, 0.03, 100)
    losses[85:] = 0.05
    smoothed = np.array([_running_mean([*losses[: end + 1]]) for end in range(len(rates))])
    result = LRFinderResult(rates, losses, smoothed, None)
    assert smoothed.argmin() > 85
    assert 55 < result.lowest < 72
    assert rates[40] < _steepest_descent(result) < rates[50]


def noisy(seed, fall):
    """A test of a loss of 0.6 that falls by so much around a rate of 1e-4, rises from 1e-3 on, and is noisy."""
    rates = np.geomspace(1e-7, 1e-2, 70)
    clean = 0.6 - fall / (1 + (1e-4 / rates) ** 2) + (rates / 1e-3) ** 2
    losses = clean + np.random.default_rng(seed).normal(0, 0.15, len(rates))
    smoothed = np.array([_running_mean([*losses[: end + 1]]) for end in range(len(rates))])
    return LRFinderResult(rates, losses, smoothed, None)


def test_chance_suggests_nothing_and_does_not_hide_where_the_loss_falls():
    """A network that begins with a fitted head has little to gain, and its batches differ by more than that."""
    flat = [_steepest_descent(noisy(seed, fall=0.0)) for seed in range(40)]
    assert sum(rate is not None for rate in flat) <= 4
    falling = [_steepest_descent(noisy(seed, fall=0.6)) for seed in range(40)]
    suggestions = [rate for rate in falling if rate is not None]
    assert len(suggestions) >= 36
    assert all(2e-5 < rate < 2e-3 for rate in suggestions)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lowest": 0.0}, "from 0 to 1"),
        ({"lowest": 1.0, "highest": 0.1}, "from 1 to 0.1"),
        ({"steps": 19}, "19 steps shows nothing"),
        ({"block": "bodi"}, "no block 'bodi' that trains. Did you mean 'body'"),
    ],
)
def test_impossible_ranges_and_unknown_blocks_are_refused(options, said):
    model, optimizer = in_training()
    with pytest.raises(UsageError, match=said):
        lr_find(run_of(model, optimizer), **options)


@pytest.mark.parametrize(("block", "said"), [(None, "the rate of all blocks is 0"), ("body", "the rate of body is 0")])
def test_rates_of_zero_have_no_proportion_and_are_refused(block, said):
    model, optimizer = in_training(rate=0.0)
    with pytest.raises(UsageError, match=said):
        lr_find(run_of(model, optimizer), block=block)


def test_a_network_that_overflows_by_itself_and_a_lack_of_batches_are_said():
    model, optimizer = in_training()
    with pytest.raises(DataError, match="no batch"):
        lr_find(run_of(model, optimizer, train_batches=lambda epoch, first: []))
    with pytest.raises(CutonceError, match="not finite at a rate of 1e-07"):
        lr_find(run_of(model, optimizer, train_batches=lambda epoch, first: [(IMAGES * float("inf"), LABELS)]))


def test_what_is_told_is_how_far_the_test_is_and_no_epoch_of_it(tmp_path):
    def told_batches(epoch, first):
        return progress(list(batches(epoch, first)), label=f"epoch {epoch}/1")

    with json_log(tmp_path / "log"):
        lr_find(run_of(*in_training(), train_batches=told_batches), steps=20)
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {record["what"] for record in told if record["event"] == "progress"} == {"range test"}

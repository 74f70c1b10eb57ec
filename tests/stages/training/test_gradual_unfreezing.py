"""Gradual unfreezing of a real network with BatchNorm, dropout and stochastic depth, momentum and weight decay."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cache.errors import UsageError
from stages.network.freezing import freeze
from stages.training.config import TrainConfig
from stages.training.gradual_unfreezing import UnfreezeSchedule
from stages.training.lr_schedules import LRScheduleConfig, make_schedule
from stages.training.optim import create_optimizer, layerwise_lrs, parameter_groups
from stages.training.train_loop import TrainHooks, TrainRun, train
from tests.stages.training.blobs import same
from tests.stages.training.networks import TASK, pictures, quick_network

BLOCKS = {
    "head": ("classifier",),
    "top": ("conv_head", "bn2", "blocks.4"),
    "middle": ("blocks.2", "blocks.3"),
    "rest": ("conv_stem", "bn1", "blocks.0", "blocks.1"),
}
UNFREEZING = UnfreezeSchedule(tuple(BLOCKS), every=2)
TRAIN, VAL = pictures(16), pictures(9, seed=1)


@given(st.integers(1, 6), st.integers(0, 4), st.integers(1, 30))
def test_blocks_join_from_the_top_one_at_a_time_and_stay(count, every, epoch):
    unfreezing = UnfreezeSchedule(tuple("abcdef"[:count]), every)
    now, before = unfreezing.trainable_blocks(epoch), unfreezing.trainable_blocks(epoch - 1) if epoch > 1 else ()
    assert now == unfreezing.blocks[: len(now)]
    assert now[: len(before)] == before
    if every and epoch > 1:
        assert len(now) - len(before) in (0, 1)
        assert unfreezing.newly_unfrozen(epoch) == (now[-1] if len(now) > len(before) else None)
    last = (count - 1) * every + 1
    assert unfreezing.trainable_blocks(last) == unfreezing.blocks
    unfreezing.check(last)
    if last > 1:
        with pytest.raises(UsageError, match=f"`unfreeze_every` {every} .* from epoch {last} on"):
            unfreezing.check(last - 1)


def test_negative_numbers_of_epochs_are_refused():
    with pytest.raises(UsageError, match="`unfreeze_every` -1"):
        UnfreezeSchedule(("head",), -1)


def train_network(model, epochs=8, name="sgd", **others):
    groups = parameter_groups(model, layerwise_lrs(list(BLOCKS.items()), 1e-2, 0.5), 0.1)
    optimizer = create_optimizer(name, groups)
    scheduler = make_schedule(optimizer, LRScheduleConfig("cosine", 0.1), 2, 8)

    def prepare(epoch, first):
        freeze(model, [name for block in UNFREEZING.trainable_blocks(epoch) for name in BLOCKS[block]])

    def train_batches(epoch, first):
        images, labels = TRAIN
        return list(zip(images.split(8), labels.split(8), strict=True))[first:]

    run = TrainRun(model, optimizer, TrainConfig(epochs), TASK, train_batches, lambda: [VAL])
    return train(run, scheduler, TrainHooks(on_epoch_start=prepare, **others))


def under(name, prefixes):
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_block_that_does_not_train_yet_keeps_every_bit_and_begins_when_it_should(name):
    model = quick_network(drop_rate=0.2, drop_path_rate=0.2)
    states = [copy.deepcopy(model.state_dict())]
    result = train_network(model, name=name, on_epoch=lambda epoch: states.append(copy.deepcopy(model.state_dict())))
    del states[1]  # epoch 0
    began = {"head": 1, "top": 3, "middle": 5, "rest": 7}
    for epoch in range(1, 9):
        before, after = states[epoch - 1], states[epoch]
        changed = {entry for entry in after if not torch.equal(before[entry], after[entry])}
        for block, names in BLOCKS.items():
            entries = {entry for entry in after if under(entry, names)}
            if epoch < began[block]:
                assert not entries & changed, (epoch, block)
            else:
                assert entries <= changed, (epoch, block)  # weights, biases and BatchNorm statistics
    of_steps = np.array(result.rates)
    assert of_steps.shape == (16, 4)
    for number, block in enumerate(BLOCKS):
        assert np.isnan(of_steps[: 2 * (began[block] - 1), number]).all()
        assert (of_steps[2 * (began[block] - 1) :, number] > 0).all()
    assert set(result.history[1].lrs) == {"head"}  # what is frozen has no rate
    rates = result.history[-2].lrs
    assert rates["top"] == pytest.approx(rates["head"] / 2)
    assert rates["rest"] == pytest.approx(rates["head"] / 8)


class StopError(Exception):
    pass


@pytest.mark.parametrize("stopped_after", [2, 3, 6])
def test_unfreezing_holds_over_a_restart(tmp_path, stopped_after):
    def stop(epoch):
        if epoch.epoch == stopped_after:
            raise StopError

    whole = quick_network(drop_rate=0.2)
    expected = train_network(whole)
    with pytest.raises(StopError):
        train_network(quick_network(drop_rate=0.2), checkpoint=tmp_path / "checkpoint.pt", on_epoch=stop)
    resumed = quick_network(drop_rate=0.2)
    result = train_network(resumed, checkpoint=tmp_path / "checkpoint.pt")
    assert same(whole, resumed)
    np.testing.assert_array_equal(result.rates, expected.rates)


def test_the_best_epoch_is_restored_as_it_was_with_blocks_that_trained_only_later():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4), nn.ReLU(), nn.Linear(4, 3))
    blocks = [("head", ["3"]), ("below", ["1"])]
    optimizer = create_optimizer("sgd", parameter_groups(model, layerwise_lrs(blocks, 1e-3, 1), 0))
    below = model[1].weight.detach().clone()
    unfreezing = UnfreezeSchedule(("head", "below"), 1)
    wrong = (TRAIN[0], (TRAIN[1] + 1) % 3)

    def train_batches(epoch, first):
        return [TRAIN if epoch == 1 else wrong]

    def prepare(epoch, first):
        freeze(model, [dict(blocks)[block][0] for block in unfreezing.trainable_blocks(epoch)])

    result = train(
        TrainRun(model, optimizer, TrainConfig(3), TASK, train_batches, lambda: [TRAIN]),
        make_schedule(optimizer, LRScheduleConfig("constant", 0.0), 1, 3),
        TrainHooks(on_epoch_start=prepare),
    )
    assert result.best.epoch < 2
    assert torch.equal(model[1].weight, below)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cache.errors import UsageError
from stages.config.registry import SCHEDULES
from stages.training.lr_schedules import LRScheduleConfig, lr_trace, make_schedule
from stages.training.optim import create_optimizer

KINDS = st.sampled_from(list(SCHEDULES.declared))
CYCLES = ("triangular", "triangular2", "exp_range")


def rates(schedule, steps, epochs=1, peak=0.1):
    return lr_trace(schedule, [peak], steps, epochs)[:, 0]


def optimizer_of(name, blocks=("head", "body")):
    groups = [
        {"params": [nn.Parameter(torch.ones(2))], "lr": 0.1 / 10**depth, "weight_decay": 0.0, "block": block}
        for depth, block in enumerate(blocks)
    ]
    return create_optimizer(name, groups)


@settings(max_examples=100, deadline=None)
@given(kind=KINDS, steps=st.integers(1, 40), epochs=st.integers(1, 5))
def test_every_schedule_lasts_its_steps_within_the_highest_rate_and_keeps_groups_in_proportion(kind, steps, epochs):
    seen = lr_trace(LRScheduleConfig(kind), [0.1, 0.001], steps, epochs)
    assert seen.shape == (steps * epochs, 2)
    assert (seen > 0).all()
    assert (seen[:, 0] <= 0.1 + 1e-9).all()
    assert np.allclose(seen[:, 0], 100 * seen[:, 1], rtol=1e-6, atol=0)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["cosine", "onecycle", "constant"]),
    steps=st.integers(2, 200),
    warmup=st.floats(0, 0.9),
)
def test_these_rise_once_and_fall_once(kind, steps, warmup):
    seen = list(rates(LRScheduleConfig(kind, warmup), steps))
    top = seen.index(max(seen))
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)


def test_cosine_rises_to_its_peak_and_falls_to_nearly_nothing():
    seen = rates(LRScheduleConfig("cosine", 0.1), 100)
    assert seen[0] < 0.01
    assert seen[10] == pytest.approx(0.1)
    assert seen[55] == pytest.approx(0.05, abs=0.002)
    assert seen[-1] < 2e-4


def test_constant_without_warmup_does_not_move():
    assert set(rates(LRScheduleConfig("constant", 0.0), 20)) == {0.1}


def test_steps_fall_where_epochs_begin_whatever_the_warmup():
    seen = rates(LRScheduleConfig("step", 0.25, factor=0.5, decay_epochs=2), 10, epochs=6)
    assert seen[15:20] == pytest.approx(0.1)
    assert seen[20:40] == pytest.approx(0.05)
    assert seen[40:60] == pytest.approx(0.025)
    assert seen[:15] == pytest.approx(0.1 * np.arange(1, 16) / 16)


@pytest.mark.parametrize(
    ("kind", "factor", "peaks"),
    [
        ("triangular", None, [1.0, 1.0, 1.0]),
        ("triangular2", None, [1.0, 1 / 2, 1 / 4]),
        ("exp_range", 0.3, [0.3**0.5, 0.3**1.5, 0.3**2.5]),
    ],
)
def test_cycles_rise_from_a_quarter_and_shrink_as_their_paper_says(kind, factor, peaks):
    seen = rates(LRScheduleConfig(kind, cycle_epochs=2, factor=factor), 10, epochs=6)
    assert seen[[0, 20, 40]] == pytest.approx(0.025)
    assert (seen[[10, 30, 50]] - 0.025) / 0.075 == pytest.approx(peaks)


def test_restarts_begin_anew_in_cycles_each_longer_than_the_one_before():
    seen = rates(LRScheduleConfig("restarts", cycle_epochs=1, cycle_mul=2), 10, epochs=7)
    assert np.flatnonzero(seen == seen.max()).tolist() == [0, 10, 30]
    assert rates(LRScheduleConfig("restarts", 0.1, cycle_epochs=1, cycle_mul=1), 10, epochs=3)[0] < 0.03


def test_plateau_falls_after_epochs_without_a_lower_loss_and_not_before():
    optimizer = optimizer_of("sgd")
    scheduler = make_schedule(optimizer, LRScheduleConfig("plateau", 0.0, factor=0.5, patience=1), 2, 10)
    seen = []
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0):
        for _ in range(2):
            optimizer.step()
            scheduler.step()
        scheduler.end_epoch(loss)
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert np.array(seen)[:, 0] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert np.array(seen)[:, 1] == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025])


@settings(max_examples=100, deadline=None)
@given(
    kind=KINDS,
    name=st.sampled_from(["sgd", "adamw", "lion"]),
    steps=st.integers(1, 12),
    epochs=st.integers(1, 5),
    data=st.data(),
)
def test_a_state_goes_on_with_the_very_same_rates_and_momenta_at_any_step(
    kind, name, steps, epochs, data, tmp_path_factory
):
    stopped_at = data.draw(st.integers(0, steps * epochs))
    losses = data.draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=epochs, max_size=epochs))

    def begun():
        optimizer = optimizer_of(name)
        return optimizer, make_schedule(optimizer, LRScheduleConfig(kind), steps, epochs)

    def going_on(optimizer, scheduler, begin, end):
        for step in range(begin, end):
            yield [(group["lr"], group.get("betas"), group.get("momentum")) for group in optimizer.param_groups]
            optimizer.step()
            scheduler.step()
            if (step + 1) % steps == 0:
                scheduler.end_epoch(losses[step // steps])

    whole = list(going_on(*begun(), 0, steps * epochs))
    optimizer, scheduler = begun()
    first = list(going_on(optimizer, scheduler, 0, stopped_at))
    path = tmp_path_factory.mktemp("states") / "state.pt"
    torch.save([optimizer.state_dict(), scheduler.state_dict()], path)
    second_optimizer, second_scheduler = begun()
    optimizer_state, scheduler_state = torch.load(path, weights_only=True)
    second_optimizer.load_state_dict(optimizer_state)
    second_scheduler.load_state_dict(scheduler_state)
    assert first + list(going_on(second_optimizer, second_scheduler, stopped_at, steps * epochs)) == whole


@settings(max_examples=60, deadline=None)
@given(kind=KINDS, at=st.integers(0, 30))
def test_a_rescaled_block_keeps_the_shape_of_its_schedule_and_the_others_their_rates(kind, at):
    seen = []
    for factor in (1.0, 3.0):
        optimizer = optimizer_of("sgd")
        scheduler = make_schedule(optimizer, LRScheduleConfig(kind), 10, 3)
        lrs_of_schedule = []
        for step in range(30):
            if step == at:
                scheduler.rescale("body", factor)
            lrs_of_schedule.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        seen.append(np.array(lrs_of_schedule))
    plain, rescaled = seen
    assert rescaled[:, 0] == pytest.approx(plain[:, 0])
    assert rescaled[:at, 1] == pytest.approx(plain[:at, 1])
    assert rescaled[at:, 1] == pytest.approx(3 * plain[at:, 1])


@pytest.mark.parametrize("kind", [*CYCLES, "onecycle"])
def test_momentum_falls_while_the_rate_rises_and_is_none_where_there_is_none(kind):
    for name, momentum in (("sgd", 0.9), ("sgd", 0.0)):
        optimizer = create_optimizer(name, [{"params": [nn.Parameter(torch.ones(2))], "lr": 0.1}], momentum)
        scheduler = make_schedule(optimizer, LRScheduleConfig(kind), 20, 2)
        seen = []
        for _ in range(40):
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            scheduler.step()
        lrs, momenta = np.array(seen).T
        if momentum:
            assert np.corrcoef(lrs, momenta)[0, 1] < -0.9
        else:
            assert (momenta == 0).all()


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"kind": "cosine", "warmup": -0.1}, "`warmup` -0.1 must be a share"),
        ({"kind": "cosine", "warmup": 1.0}, "`warmup` 1 must be a share"),
        ({"kind": "onecycle", "warmup": 3}, "`warmup` 3 must be a share"),
        ({"kind": "triangular", "cycle_epochs": 0}, "`cycle_epochs` 0 must be more than 0"),
        ({"kind": "restarts", "cycle_mul": 0}, "`cycle_mul` 0 must be a whole number"),
        ({"kind": "restarts", "cycle_mul": 1.5}, "`cycle_mul` 1.5 must be a whole number"),
        ({"kind": "step", "factor": 1.0}, "`decay_rate` 1 must be between 0 and 1"),
        ({"kind": "step", "decay_epochs": 0}, "`decay_epochs` 0 must be at least 1"),
        ({"kind": "plateau", "patience": -1}, "`plateau_patience` -1 must be at least 0"),
        (
            {"kind": "cosine", "factor": 0.1},
            "`decay_rate` is of no use with `schedule` cosine; it is for step, plateau",
        ),
        ({"kind": "triangular", "warmup": 0.1}, "`warmup` is of no use with `schedule` triangular"),
        ({"kind": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_their_option(settings_, said):
    with pytest.raises(UsageError, match=said):
        LRScheduleConfig(**settings_)


@pytest.mark.parametrize(
    "schedule", [LRScheduleConfig("restarts", cycle_epochs=4), LRScheduleConfig("step", decay_epochs=4)]
)
def test_a_cycle_longer_than_the_training_is_refused(schedule):
    schedule.check(4)
    with pytest.raises(UsageError, match="is longer than the training of 3 epochs"):
        make_schedule(optimizer_of("sgd"), schedule, 10, 3)

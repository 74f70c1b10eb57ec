import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cache.errors import UsageError
from stages.training.schedules import make_schedule, parameter_groups


def rates(kind, steps, warmup, peak=0.1):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = make_schedule(optimiser, kind, steps, warmup)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["cosine", "onecycle", "constant"]),
    steps=st.integers(2, 200),
    warmup=st.floats(0, 0.9),
)
def test_every_schedule_lasts_its_steps_and_never_exceeds_the_highest_rate(kind, steps, warmup):
    seen = rates(kind, steps, warmup)
    assert all(0 <= rate <= 0.1 + 1e-9 for rate in seen)
    top = seen.index(max(seen))
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)


def test_cosine_rises_to_its_peak_and_falls_to_nearly_nothing():
    seen = rates("cosine", 100, 0.1)
    assert seen[0] < 0.01
    assert seen[10] == pytest.approx(0.1)
    assert seen[55] == pytest.approx(0.05, abs=0.002)
    assert seen[-1] < 1e-4


def test_constant_without_warmup_does_not_move():
    assert set(rates("constant", 20, 0.0)) == {0.1}


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 3])
def test_impossible_warmup_is_refused(warmup):
    with pytest.raises(UsageError, match="--warmup"):
        rates("cosine", 10, warmup)


def test_no_weight_decay_on_biases_and_normalisation():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed = {
        id(parameter)
        for group in parameter_groups([(module, 0.1)], 0.5)
        if group["weight_decay"]
        for parameter in group["params"]
    }
    assert decayed == {id(module[0].weight), id(module[3].weight)}


def test_each_module_keeps_its_own_rate_and_frozen_parameters_stay_out():
    body, head = nn.Linear(3, 3), nn.Linear(3, 2)
    body.bias.requires_grad_(False)
    groups = parameter_groups([(body, 0.01), (head, 0.1)], 0.0)
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rate_of == {id(body.weight): 0.01, id(head.weight): 0.1, id(head.bias): 0.1}


def test_nothing_left_to_train_is_refused():
    with pytest.raises(UsageError, match="nothing is left to train"):
        parameter_groups([(nn.Linear(2, 2).requires_grad_(False), 0.1)], 0.0)

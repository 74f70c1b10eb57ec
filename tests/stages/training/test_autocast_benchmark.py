"""The trial of two arithmetics, in networks of which it is known which is the slower."""

import copy
import time

import pytest
import torch
from torch import nn

from stages.training import autocast_benchmark
from stages.training.autocast_benchmark import benchmark_autocast
from stages.training.config import TrainConfig
from stages.training.optim import create_optimizer, parameter_groups
from stages.training.train_loop import TrainRun
from tests.stages.training.blobs import TASK, VAL, batches_of, same, small_network


class SlowIn(nn.Module):
    """A network that takes its time in one of the two."""

    def __init__(self, slow):
        super().__init__()
        self.network, self.slow = small_network(), slow

    def forward(self, inputs):
        if ("bf16" if torch.is_autocast_enabled("cpu") else "none") == self.slow:
            time.sleep(0.1)
        return self.network(inputs)


def run_of(model, train_batches=batches_of):
    optimizer = create_optimizer("adamw", parameter_groups(model, [("all", ["network"], 0.01)], 0.0))
    return TrainRun(model, optimizer, TrainConfig(1), TASK, train_batches, lambda: [VAL])


@pytest.fixture(autouse=True)
def _has_instructions(monkeypatch):
    monkeypatch.setattr(autocast_benchmark, "supports_bf16", lambda device: True)


@pytest.mark.parametrize(("slow", "chosen"), [("bf16", "none"), ("none", "bf16")])
def test_the_quicker_arithmetic_is_chosen(slow, chosen):
    assert benchmark_autocast(run_of(SlowIn(slow))) == chosen


def test_a_device_without_instructions_for_it_is_not_tried(monkeypatch):
    def no_batches(epoch, first):
        raise AssertionError("a step was tried")

    monkeypatch.setattr(autocast_benchmark, "supports_bf16", lambda device: False)
    assert benchmark_autocast(run_of(SlowIn("bf16"), no_batches)) == "none"


def test_the_trial_changes_neither_the_model_nor_its_optimizer_nor_random_numbers():
    run = run_of(SlowIn("bf16").eval())
    model, random_state = copy.deepcopy(run.model), torch.get_rng_state()
    benchmark_autocast(run)
    assert same(model, run.model)
    assert not any(module.training for module in run.model.modules())
    assert not run.optimizer.state
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())

"""Which weights are validated, and what of a model a training can change."""

import copy

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.training.ema import ModelEMA, TrainableState
from tests.stages.training.blobs import same, small_network


def test_without_a_decay_the_model_itself_is_validated():
    model = small_network()
    average = ModelEMA(model, None)
    average.update(1)
    assert average.model is model


def test_the_average_follows_the_weights_by_a_decay_that_rises_to_what_was_asked():
    model = nn.Linear(3, 2)
    average, expected = ModelEMA(model, 0.7), torch.zeros(2, 3)
    for step in range(1, 12):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(step))
        decay = min(0.7, 1 - step ** (-2 / 3))  # the first step forgets what was drawn
        expected = decay * expected + (1 - decay) * model.weight.detach()
        average.update(step)
        assert torch.allclose(average.model.weight, expected, atol=1e-6), step
    assert decay == 0.7
    assert not torch.equal(average.model.weight, model.weight)


def test_statistics_of_batchnorm_are_averaged_too():
    model = small_network()
    average = ModelEMA(model, 0.9)
    model.train()(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    average.update(1)
    assert same(model, average.model)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(UsageError, match="`model_ema_decay`"):
        ModelEMA(small_network(), decay)


def test_the_state_of_a_training_leaves_out_what_is_frozen_for_good_and_has_all_buffers():
    model = small_network()
    state = TrainableState(model, torch.optim.SGD(model[4].parameters(), lr=0.1))
    buffers = [name for name, _ in model.named_buffers()]
    assert sorted(state.of(model)) == sorted([*buffers, "4.weight", "4.bias"])


def test_a_snapshot_stays_and_what_is_loaded_leaves_the_frozen_part_alone():
    model = small_network()
    state = TrainableState(model, torch.optim.SGD(model[4].parameters(), lr=0.1))
    kept, before = state.snapshot(model), copy.deepcopy(model)
    assert state.of(model)["4.weight"].data_ptr() == model[4].weight.data_ptr()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    state.load(model, kept)
    assert torch.equal(model[4].weight, before[4].weight)
    assert torch.equal(model[0].weight, before[0].weight + 1)

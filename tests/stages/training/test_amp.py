"""The arithmetic of the forward pass, and what becomes of gradients before a step."""

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.training import amp
from stages.training.amp import MixedPrecision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("autocast", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_is_in_the_arithmetic_that_was_asked_and_weights_stay(autocast, dtype):
    precision, layer = MixedPrecision(autocast, CPU), nn.Linear(3, 2)
    with precision.autocast():
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 3)).dtype == torch.float32


def test_gradients_are_scaled_in_float16_alone_and_a_step_takes_the_scale_off():
    moved = {}
    for autocast in ("none", "bf16", "fp16"):
        precision, parameter = MixedPrecision(autocast, CPU), nn.Parameter(torch.ones(3))
        precision.backward(parameter.sum())
        scaled = autocast == "fp16"
        assert precision.scaler.is_enabled() == scaled
        assert bool((parameter.grad > 1).all()) == scaled
        precision.step(torch.optim.SGD([parameter], lr=0.5), [parameter], clip=None)
        moved[autocast] = parameter.tolist()
    assert moved["none"] == moved["bf16"] == moved["fp16"] == [0.5] * 3


@pytest.mark.parametrize("autocast", ["none", "fp16"])
@pytest.mark.parametrize(("clip", "norm"), [(0.1, 0.1), (100.0, 5.0)])
def test_gradients_are_clipped_at_their_norm_over_all_parameters_without_their_scale(autocast, clip, norm):
    precision = MixedPrecision(autocast, CPU)
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    precision.backward(3 * parameters[0].sum() + 4 * parameters[1].sum())
    precision.step(torch.optim.SGD(parameters, lr=1.0), parameters, clip)
    assert torch.cat([parameter.detach() for parameter in parameters]).norm().item() == pytest.approx(norm, rel=1e-4)


def test_float16_where_gradients_cannot_be_scaled_is_refused():
    with pytest.raises(UsageError, match=r"`amp_dtype` fp16 .* use bf16"):
        MixedPrecision("fp16", torch.device("mps"))


def test_bfloat16_on_a_gpu_that_lacks_it_is_refused(monkeypatch):
    monkeypatch.setattr(amp, "supports_bf16", lambda device, emulated: False)
    with pytest.raises(UsageError, match=r"`amp_dtype` bf16 .* use fp16"):
        MixedPrecision("bf16", torch.device("cuda"))

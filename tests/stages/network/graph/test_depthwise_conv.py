"""Depthwise convolutions whose gradients are put together here: the same as torch's own."""

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from stages.network.graph.depthwise_conv import conv2d_with_weight, depthwise

GEOMETRIES = [
    *(
        (kernel, stride, padding, size)
        for kernel in (5, 7)
        for stride in (1, 2)
        for padding in (0, 2, 3)
        for size in (9, 14)
    ),
    *((3, 2, 1, size) for size in (7, 8)),
    *(((3, 5), (2, 1), (1, 2), 11), ((7, 4), (1, 3), (0, 1), 12), ((9, 6), (1, 1), (4, 0), 10)),
]


def by_layer(layer, x):
    return conv2d_with_weight(layer, x, layer.weight, layer.bias)


def by_function(layer, x):
    return depthwise(x, layer.weight, layer.bias, layer.stride, layer.padding)


def both(layer, x, ours=by_layer):
    """Outputs, and gradients of a sum with random weights: the layer's own and ours."""
    results = []
    for compute in (layer, lambda inputs: ours(layer, inputs)):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        output = compute(inputs)
        generator = torch.Generator().manual_seed(1)
        (output.float() * torch.randn(output.shape, generator=generator)).sum().backward()
        results.append([output.detach(), inputs.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    return results


def random_images(channels, size, dtype=torch.float32):
    images = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), GEOMETRIES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_depthwise_gradients_are_those_of_torch(kernel, stride, padding, size, bias):
    layer = nn.Conv2d(20, 20, kernel, stride, padding, groups=20, bias=bias)
    for theirs, ours in zip(*both(layer, random_images(20, size), by_function), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (7, 2, 3), ((3, 6), (2, 1), (0, 2))], ids=str)
def test_depthwise_gradients_are_those_of_finite_differences(kernel, stride, padding):
    layer = nn.Conv2d(2, 2, kernel, stride, padding, groups=2, dtype=torch.float64)
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.weight, layer.bias, layer.stride, layer.padding)
    assert torch.autograd.gradcheck(depthwise, inputs)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2), (7, 1), ((1, 5), 2), ((5, 2), 2), (1, 2)])
def test_in_bfloat16_they_are_as_near_as_its_rounding(kernel, stride):
    layer = nn.Conv2d(16, 16, kernel, stride, kernel // 2 if isinstance(kernel, int) else (0, 1), groups=16)
    exact, _ = both(layer, random_images(16, 14))
    with torch.autocast("cpu", torch.bfloat16):
        _, ours = both(layer, random_images(16, 14))
    assert ours[0].dtype == torch.bfloat16
    for expected, actual in zip(exact, ours, strict=True):
        assert (actual.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("kernel", "stride", "autocast", "own"), [(5, 1, True, True), (3, 1, True, False), (5, 1, False, False)]
)
def test_they_are_put_together_only_where_torch_is_slow(kernel, stride, autocast, own):
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = by_layer(layer, random_images(8, 9))
    assert (type(output.grad_fn).__name__ == "_DepthwiseBackward") == own


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Conv2d(8, 8, 5, padding=2, groups=4),
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect", groups=8),
        nn.Conv2d(8, 8, (5, 3), padding=(1, 2), padding_mode="circular"),
        nn.Conv2d(8, 8, (4, 3), dilation=(1, 3), padding="same", padding_mode="replicate"),
        nn.Conv2d(8, 8, 3, padding="valid", padding_mode="reflect"),
        nn.Conv2d(8, 16, 5, padding=2, groups=8),
        Conv2dSame(8, 8, 5, stride=2, groups=8),
        Conv2dSame(8, 4, 3, stride=2),
    ],
    ids=[
        "dense",
        "grouped",
        "dilated",
        "same",
        "reflected",
        "circular",
        "replicated",
        "valid",
        "multiplied",
        "timm's depthwise",
        "timm's dense",
    ],
)
def test_every_geometry_is_that_of_the_layer(layer):
    for theirs, ours in zip(*both(layer, random_images(8, 13)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_only_the_gradients_that_are_asked_for_are_computed():
    layer = nn.Conv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False)
    x = random_images(8, 9).requires_grad_()
    conv2d_with_weight(layer, x, layer.weight, layer.bias).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None

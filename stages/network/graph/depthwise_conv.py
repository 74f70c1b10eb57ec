"""Convolutions with weights that are given, as they are trained: the same sums, by kernels that are quick.

oneDNN, which computes for torch on CPUs, lacks quick kernels for some gradients of depthwise convolutions in 16 bits:
for those of weights larger than 3 x 3, and for those of the input where there is a stride. They are computed here from
what it is quick at; ``benchmarks/depthwise.py`` shows both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from stages.network.graph.layer_kinds import padding_as_in_tensorflow

_MAX_FAST_KERNEL = 3
"""Side of the largest kernel whose weight gradient oneDNN has a depthwise kernel for."""

Pair = tuple[int, int]


def conv2d_with_weight(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute what a convolution would with other weights, in the arithmetic that autocast asks for.

    Parameters
    ----------
    layer
        One of `convolutions`: stride, padding, dilation and groups.
    x
        Float [b, c, h, w].
    weight, bias
        Of the shapes of the layer's own; a bias can be there where the layer has none.
    """
    x, padding = padded(layer, x)
    if x.device.type == "cpu" and torch.is_grad_enabled() and _has_slow_gradients(layer):
        if torch.is_autocast_enabled("cpu"):
            reduced = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(reduced), weight.to(reduced), None if bias is None else bias.to(reduced)
        if x.element_size() == 2:
            return depthwise(x, weight, bias, layer.stride, padding)
    return functional.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)


def padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Any]:
    """Return x, with what a convolution puts around it that no kernel does, and the zeros that are left to the kernel.

    Parameters
    ----------
    layer
        One of `convolutions`.
    x
        Float [b, c, h, w].
    """
    if isinstance(layer, padding_as_in_tensorflow()):
        from timm.layers.padding import pad_same

        return pad_same(x, list(layer.kernel_size), list(layer.stride), list(layer.dilation)), (0, 0)
    if layer.padding_mode != "zeros":
        return functional.pad(x, _padding_of_sides(layer), mode=layer.padding_mode), (0, 0)
    return x, layer.padding


def _padding_of_sides(layer: nn.Conv2d) -> list[int]:
    """Return how much is padded left, right, above and below: what `functional.conv2d` can do with zeros alone."""
    if isinstance(layer.padding, str):  # of "same" an odd row or column goes to the right and below, as in torch
        same = layer.padding == "same"
        lost = [same * step * (side - 1) for side, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [part for total in reversed(lost) for part in (total // 2, total - total // 2)]
    vertical, horizontal = layer.padding
    return [int(part) for part in (horizontal, horizontal, vertical, vertical)]


def _has_slow_gradients(layer: nn.Conv2d) -> bool:
    if not layer.groups == layer.in_channels == layer.out_channels or max(layer.dilation) > 1:
        return False
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":  # these are left to torch
        return False
    return max(layer.stride) > 1 or _is_large(layer.kernel_size)


def _is_large(kernel: Sequence[int]) -> bool:
    return min(kernel) >= _MAX_FAST_KERNEL and max(kernel) > _MAX_FAST_KERNEL


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            _of_input(gradient, x, weight, ctx.stride, ctx.padding) if needs_x else None,
            _grad_weight(gradient, x, weight, ctx.stride, ctx.padding) if needs_weight else None,
            gradient.sum((0, 2, 3)) if needs_bias else None,
            None,
            None,
        )


depthwise: Callable[..., Tensor] = _Depthwise.apply
"""A depthwise convolution: x [b, c, h, w], weight [c, 1, k, l], bias [c] or None, stride, padding -> [b, c, h', w']."""


def _of_input(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    dtype = x.dtype
    if max(stride) > 1 and x.element_size() < 4:
        gradient, x, weight = gradient.float(), torch.empty_like(x, dtype=torch.float32), weight.float()
    return _backward(gradient, x, weight, stride, padding, of_weight=False).to(dtype)


def _grad_weight(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Put the gradient of a kernel of 3 x 3 or more together from those of 3 x 3 kernels over shifted inputs.

    Entry i of the gradient sums gradient[h] x[stride h + i - padding], along each side. So the entries from `start` on
    are those of a 3 x 3 kernel without padding, over the x that is shifted by padding - start.
    """
    if not _is_large(weight.shape[2:]):
        return _backward(gradient, x, weight, stride, padding, of_weight=True)
    kernel_gradient = torch.empty_like(weight)
    part = weight.new_empty(len(weight), 1, _MAX_FAST_KERNEL, _MAX_FAST_KERNEL)
    padded_size = [
        step * (length - 1) + _MAX_FAST_KERNEL for step, length in zip(stride, gradient.shape[2:], strict=True)
    ]
    for row, column in product(*(_starts(side) for side in weight.shape[2:])):
        above, left = padding[0] - row, padding[1] - column
        below, right = padded_size[0] - x.shape[2] - above, padded_size[1] - x.shape[3] - left
        shifted = functional.pad(x, (left, right, above, below))
        entries = _backward(gradient, shifted, part, stride, (0, 0), of_weight=True)
        kernel_gradient[:, :, row : row + _MAX_FAST_KERNEL, column : column + _MAX_FAST_KERNEL] = entries
    return kernel_gradient


def _starts(side: int) -> list[int]:
    """Return where parts of 3 begin that cover a side; the last one may overlap the one before."""
    return [min(start, side - _MAX_FAST_KERNEL) for start in range(0, side, _MAX_FAST_KERNEL)]


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of_weight: bool) -> Tensor:
    """Return one gradient of torch's own depthwise convolution."""
    mask = [not of_weight, of_weight, False]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), mask
    )
    return gradients[1 if of_weight else 0]

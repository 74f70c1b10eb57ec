"""Matrix products in float32, by that of torch's two libraries which is quicker on this processor.

torch multiplies float32 matrices with MKL, which takes its kernels for AVX-512 on Intel's processors alone. oneDNN,
which torch has for convolutions and for compiled code, takes them wherever the processor has them: on a core of an AMD
EPYC of the fifth generation twice as many in a second (`benchmarks/products.py`).
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.runtime.device import cpuinfo, has_numbers_here

_WORTH = 1 << 19
"""Products of numbers from which on oneDNN's preparations do not show."""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows @ weight.T + bias``, as torch.nn.functional.linear does.

    Parameters
    ----------
    rows
        [..., d], of any float type, on any device. What is a transposed matrix or has gaps between rows is copied.
    weight
        [k, d], on the same device. What has gaps between rows is copied.
    bias
        [k], or none.

    Returns
    -------
    torch.Tensor
        [..., k]. The same to within float32 rounding by either library.
    """
    if _by_onednn(rows, weight, bias):
        is_dense = weight.is_contiguous() or weight.T.is_contiguous()  # others take oneDNN a thousand times as long
        rows_times_weight: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, weight if is_dense else weight.contiguous(), bias, "none", [], ""
        )
        return rows_times_weight
    return functional.linear(rows, weight, bias)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right`` of two matrices, [n, d] and [d, k] -> [n, k], as :func:`linear` computes it."""
    return linear(left, right.T)


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return |a - b|^2 of all pairs of rows, [n, d] and [m, d] -> [n, m], as |a|^2 + |b|^2 - 2 a.b and 0 at least.

    The products are summed in the rows' own type, so that an entry is right to its rounding of the squared lengths.
    """
    products = linear(rows, others).mul_(-2)
    return products.add_(others.square().sum(dim=1)).add_(rows.square().sum(dim=1, keepdim=True)).clamp_min_(0)


def take_quick_products(network: nn.Module) -> None:
    """Let the linear layers of a network compute as :func:`linear` does; they keep their weights and their names."""
    for layer in network.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = _Linear


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def _by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if not onednn_is_quicker() or not has_numbers_here(rows):
        return False
    given = [rows, weight] if bias is None else [rows, weight, bias]
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in given):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    return rows.ndim > 1 and len(weight) > 1 and rows.numel() * len(weight) >= _WORTH


@cache
def onednn_is_quicker() -> bool:
    """Return whether oneDNN multiplies float32 matrices quicker than MKL: on an AMD processor with AVX-512."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in (cpuinfo() or platform.processor())
    )

"""Products by oneDNN: those of torch to rounding, however the matrices lie, and torch's own where they have to be."""

import copy
import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.runtime import products
from stages.runtime.products import linear, onednn_is_quicker, product, squared_distances, take_quick_products
from tests.stages.network.networks import graph, images

ONEDNN = torch.ops.mkldnn._linear_pointwise.default


@pytest.fixture(params=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Either library, on any processor."""
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: request.param == "oneDNN")
    return request.param


@pytest.fixture
def onednn(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_quicker", lambda: True)


class Operators(TorchDispatchMode):
    """Notes whether oneDNN multiplies."""

    def __init__(self):
        super().__init__()
        self.by_onednn = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.by_onednn += operator is ONEDNN
        return operator(*args, **(kwargs or {}))


def by_onednn(*given):
    """Whether a product of these is oneDNN's."""
    with Operators() as operators:
        linear(*given)
    return operators.by_onednn == 1


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


LIES = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "with gaps between rows": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "with gaps between columns": lambda x: x.repeat_interleave(3, dim=1)[:, ::3],
    "every second row": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "behind others": lambda x: torch.cat([x[:1], x])[1:],
    "one row for all": lambda x: x[:1].expand(len(x), -1),
}


@pytest.mark.parametrize("rows_lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("weight_lies", LIES.values(), ids=LIES)
def test_products_are_right_however_the_matrices_lie(onednn, rows_lie, weight_lies):
    rows, weight = rows_lie(drawn(120, 90)), weight_lies(drawn(70, 90))
    assert by_onednn(rows, weight)
    torch.testing.assert_close(linear(rows, weight).double(), rows.double() @ weight.double().T, rtol=0, atol=1e-4)
    torch.testing.assert_close(product(rows, weight.T), linear(rows, weight), rtol=0, atol=1e-4)


@given(rows=st.integers(0, 40), summed=st.integers(0, 600), columns=st.integers(0, 40), has_bias=st.booleans())
@settings(deadline=None, max_examples=60)
def test_products_of_any_size_are_right(rows, summed, columns, has_bias):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(products, "onednn_is_quicker", lambda: True)
        left, weight = drawn(rows, summed), drawn(columns, summed)
        bias = drawn(columns) if has_bias else None
        expected = left.double() @ weight.double().T + (0 if bias is None else bias.double())
        torch.testing.assert_close(linear(left, weight, bias).double(), expected, rtol=1e-6, atol=1e-4)


def test_what_onednn_is_not_for_is_torchs(onednn):
    rows, weight = drawn(2, 60, 90), drawn(70, 90)
    assert by_onednn(rows, weight)
    assert by_onednn(rows, weight, drawn(70))
    assert not by_onednn(rows.double(), weight.double())
    assert not by_onednn(rows.bfloat16(), weight.bfloat16())
    assert not by_onednn(rows[0, :2], weight)  # too little to be worth it
    assert not by_onednn(rows, weight[:1])
    assert not by_onednn(rows.clone().requires_grad_(), weight)
    assert not by_onednn(rows, nn.Parameter(weight))
    with torch.no_grad():
        assert by_onednn(rows, nn.Parameter(weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(rows, weight)
    traced = torch.jit.trace(lambda x: linear(x, weight), rows)
    assert "mkldnn" not in str(traced.graph)
    exported = torch.export.export(nn.Linear(90, 70), (rows,))
    assert "mkldnn" not in str(exported.graph)


@pytest.mark.parametrize(
    ("processor", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD", "AVX512", True),
        ("AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", "AVX512", True),
        ("vendor_id\t: AuthenticAMD", "AVX2", False),
        ("vendor_id\t: GenuineIntel", "AVX512", False),
    ],
)
def test_onednn_is_taken_on_amds_processors_with_avx_512(monkeypatch, processor, capability, expected):
    monkeypatch.setattr(products, "cpuinfo", lambda: processor if "vendor_id" in processor else "")
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    onednn_is_quicker.cache_clear()
    try:
        assert onednn_is_quicker() is (expected and torch.backends.mkl.is_available())
    finally:
        onednn_is_quicker.cache_clear()


def test_distances_are_those_of_the_definition(library):
    rows, others = drawn(150, 80), drawn(90, 80) + 0.1
    expected = torch.cdist(rows.double(), others.double()).square()
    torch.testing.assert_close(squared_distances(rows, others).double(), expected, rtol=1e-5, atol=1e-4)
    assert not (squared_distances(rows, rows) < 0).any()


def test_layers_keep_their_weights_their_names_and_their_gradients(onednn):
    network = nn.Sequential(nn.Linear(90, 80), nn.ReLU(), nn.Sequential(nn.Linear(80, 60)), nn.Bilinear(3, 3, 3))
    before, x = copy.deepcopy(network), drawn(120, 90)
    take_quick_products(network)
    assert list(network.state_dict()) == list(before.state_dict())
    assert [isinstance(layer, nn.Linear) for layer in (network[0], network[2][0])] == [True, True]
    copied = copy.deepcopy(network)
    with torch.no_grad(), Operators() as operators:
        rows = copied[:3](x)
    assert operators.by_onednn == 2
    torch.testing.assert_close(rows, before[:3](x), rtol=0, atol=1e-5)
    network[:3](x).sum().backward()
    before[:3](x).sum().backward()
    torch.testing.assert_close(network[0].weight.grad, before[0].weight.grad)


@pytest.mark.parametrize(("precision", "layers"), [("fp32", 48), ("bf16", 0)])
@torch.inference_mode()
def test_a_frozen_transformer_multiplies_by_onednn_in_float32(onednn, precision, layers):
    network = graph("timm:vit_tiny_patch16_224")
    cut, x = network.resolve("auto"), images("timm:vit_tiny_patch16_224", 2)
    trunk = FrozenTrunk(network, [(cut, Pool("avg", cut))], precision, torch.device("cpu"))
    with Operators() as operators:
        (rows,) = trunk(x)
    assert operators.by_onednn == layers
    assert not any(type(layer) is products._Linear for layer in network.module.modules())
    if precision == "fp32":
        products.onednn_is_quicker = lambda: False  # restored by the fixture
        torch.testing.assert_close(rows, trunk(x)[0], rtol=1e-4, atol=1e-5)

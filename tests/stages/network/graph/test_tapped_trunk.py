"""The trunk that gives statistics of all depths: those of the network as it is, whatever is folded and whoever asks."""

import logging
import sys
from functools import partial

import pytest
import torch

from cache.errors import UsageError
from stages.network.graph import tapped_trunk
from stages.network.graph.cuts import Cut
from stages.network.graph.pooling import Pool
from stages.network.graph.tap_places import TapPlace, find_taps, layout_of_taps
from stages.network.graph.tapped_trunk import PooledTensor, TappedTrunk
from stages.network.graph.trunk import ARITHMETIC, FrozenTrunk
from tests.stages.network.networks import graph, images, network

CPU = torch.device("cpu")
LITE, VIT = "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"
POOLS = ("avg", "max", "std")


def by_hooks(name, places, x):
    """The statistics of each place, taken by hooks while the network itself runs, nothing folded."""
    module, rows = network(name), {}
    handles = []

    def take(place, layer, arguments, output):  # what runs twice is told apart by its step's name: the first counts
        rows.setdefault(place.tensor.name, [pool(output.float()) for pool in place.pools])

    for place in places:
        path = place.tensor.name
        while path not in dict(module.named_modules()):
            path = path.rpartition(".")[0]
        handles.append(module.get_submodule(path).register_forward_hook(partial(take, place)))
    module(x)
    for handle in handles:
        handle.remove()
    return torch.cat([row for place in places for row in rows[place.tensor.name]], dim=1)


@pytest.mark.parametrize("name", [LITE, "resnet18", VIT])
@torch.inference_mode()
def test_taps_of_the_folded_trunk_are_those_of_the_network(name):
    places = find_taps(graph(name), "all", POOLS)
    trunk, x = TappedTrunk(graph(name), places, "fp32", CPU), images(name, 2)
    expected = by_hooks(name, [place for place in places if place.kind != "last"], x)
    (rows,) = trunk(x)
    assert trunk.folded == {LITE: 49, "resnet18": 20}.get(name, 0)
    assert rows.dtype == torch.float32
    layout = layout_of_taps(places)
    others = layout.select([block.name for block in layout.blocks if block.kind != "last"])  # which no module gives
    for block, part in others.slices.items():
        error = (rows[:, layout.slices[block]] - expected[:, part]).abs().max() / expected[:, part].abs().max().clamp(
            min=1e-3
        )
        assert error < 2e-3, block


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_the_last_tap_has_the_bits_of_the_automatic_cut(precision):
    automatic = graph(LITE).resolve("auto")
    (alone,) = FrozenTrunk(graph(LITE), [(automatic, Pool("avg", automatic))], precision, CPU)(images(LITE, 2))
    trunk = TappedTrunk(graph(LITE), find_taps(graph(LITE), "all", POOLS), precision, CPU)
    (rows,) = trunk(images(LITE, 2))
    assert torch.equal(rows[:, -1280:], alone)
    assert rows.dtype == torch.float32
    assert trunk.arithmetic == ARITHMETIC[precision]


@torch.inference_mode()
def test_taps_do_not_depend_on_what_else_is_tapped():
    of_all, of_stages = (find_taps(graph(LITE), word, POOLS) for word in ("all", "stages"))
    all_rows, stages = (
        TappedTrunk(graph(LITE), places, "fp32", CPU)(images(LITE, 2))[0] for places in (of_all, of_stages)
    )
    slices = layout_of_taps(of_all).slices
    columns = [all_rows[:, slices[block.name]] for block in layout_of_taps(of_stages).blocks]
    assert torch.equal(torch.cat(columns, dim=1), stages)


LAYOUTS = {
    "map": Cut("a", "", (6, 5, 5), "nchw", 0, 0, 0, 0),
    "channels last": Cut("a", "", (5, 5, 6), "nhwc", 0, 0, 0, 0),
    "tokens": Cut("a", "", (26, 6), "tokens", 0, 0, 0, 0, prefix_tokens=1, class_token=True),
}


@pytest.fixture(params=["numba", "torch"])
def pooled_by(request, monkeypatch, caplog):
    """With and without numba."""
    caplog.set_level(logging.INFO, "cutonce")
    tapped_trunk._kernel.cache_clear()
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "stages.network.graph.pooling_kernels", None)
    yield request.param
    tapped_trunk._kernel.cache_clear()


@pytest.mark.parametrize("tensor", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_poolings_together_are_those_one_by_one(tensor, dtype, pooled_by, caplog):
    x = torch.randn(3, *tensor.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if tensor.layout == "nchw" else x
    pools = [Pool(kind, tensor) for kind in ("max", "avgmax", "std", "avg")]
    rows = PooledTensor(TapPlace(tensor, "block", tuple(pools)))(x)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.cat([pool(x.float()) for pool in pools], dim=1), rtol=1e-5, atol=1e-5)
    assert ("numba does not load" in caplog.text) == (pooled_by == "torch")


@pytest.mark.parametrize("tensor", LAYOUTS.values(), ids=LAYOUTS)
def test_the_deviation_of_what_is_nearly_the_same_everywhere_is_right(tensor, pooled_by):
    noise = torch.randn(2, *tensor.shape, generator=torch.Generator().manual_seed(0)).double() / 100
    pool = Pool("std", tensor)
    rows = PooledTensor(TapPlace(tensor, "block", (pool,)))((noise + 30).float())
    torch.testing.assert_close(rows.double(), pool(noise), rtol=1e-3, atol=0)
    assert not PooledTensor(TapPlace(tensor, "block", (pool,)))(torch.full((2, *tensor.shape), 3.0)).any()


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_kernel_is_there_for_every_map_of_the_embedded_network_and_tokens(precision, monkeypatch):
    monkeypatch.setattr(tapped_trunk, "_pooled_by_torch", None)
    for name in (LITE, VIT):
        TappedTrunk(graph(name), find_taps(graph(name), "all", POOLS), precision, CPU)(images(name, 2))


def test_maps_that_lie_otherwise_and_gradients_are_torchs():
    tensor = LAYOUTS["map"]
    pooling = PooledTensor(TapPlace(tensor, "block", (Pool("std", tensor),)))
    x = torch.randn(2, *tensor.shape)
    torch.testing.assert_close(pooling(x), x.std((2, 3), correction=0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    pooling(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert pooling(x.detach()[:0]).shape == (0, 6)


def test_a_tap_that_would_prevent_folding_is_refused_in_reduced_precision():
    places = find_taps(graph(LITE), "blocks.1.0.conv_dw, blocks.3", ("avg",))
    with pytest.raises(UsageError, match=r"`taps`: blocks\.1\.0\.conv_dw lies between a convolution and its BatchNorm"):
        TappedTrunk(graph(LITE), places, "bf16", CPU)
    assert (
        TappedTrunk(graph(LITE), places, "fp32", CPU).folded
        == TappedTrunk(graph(LITE), places[1:], "fp32", CPU).folded - 1
    )

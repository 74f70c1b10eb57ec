"""The trunk as it is run: the same features in one pass, in one arithmetic, whatever is computed beside them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from cache.errors import UsageError
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import ARITHMETIC, FrozenTrunk, auto_batch_size, auto_precision
from stages.runtime.device import lists_bfloat16
from stages.runtime.threads import single_thread_pool
from tests.stages.network.networks import FAMILIES, graph, images

CPU = torch.device("cpu")
LITE, VIT = "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"

JOINED = {
    torch.ops.mkldnn._convolution_pointwise: lambda x, weight, *_, out_shape, **__: conv_flop_count(
        x, weight, out_shape
    )
}
"""What a convolution with its activation multiplies and adds, which torch's counter does not know."""


def tap(name, cut, kind="avg"):
    resolved = graph(name).resolve(cut)
    return resolved, Pool(kind, resolved)


def trunk(name, *taps, precision="fp32", device=CPU):
    return FrozenTrunk(graph(name), taps, precision, device)


def error(rows, expected):
    return ((rows - expected).norm() / expected.norm()).item()


TAPS = {
    "resnet18": [("auto", "avg"), ("layer2", "none"), ("layer3", "max"), ("layer2", "avgmax")],
    LITE: [("blocks.4", "none"), ("auto", "avg"), ("blocks.0", "avg")],
    "densenet121": [("features.denseblock2", "avg"), ("auto", "avg")],
    "swin_t": [("features.3", "none"), ("auto", "avg")],
    VIT: [("blocks.3", "cls"), ("auto", "avg"), ("blocks.3", "avg"), ("norm", "none")],
}


@pytest.mark.parametrize("name", TAPS)
@torch.inference_mode()
def test_every_tap_has_the_networks_features_in_the_order_asked(name):
    taps, x = [tap(name, *tap_options) for tap_options in TAPS[name]], images(name, 2)
    rows = trunk(name, *taps)(x)
    assert len(rows) == len(taps)
    for tap_rows, (cut, pool) in zip(rows, taps, strict=True):
        expected = pool(graph(name).section(None, cut)(x))
        assert tap_rows.dtype == torch.float32
        assert tap_rows.shape == (2, *pool.shape)
        torch.testing.assert_close(tap_rows, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@torch.inference_mode()
def test_rows_of_a_lower_tap_stay_as_they_are_while_the_layers_above_work_in_place():
    together = trunk("resnet18", tap("resnet18", "bn1", "none"), tap("resnet18", "layer1", "none"))
    alone = trunk("resnet18", tap("resnet18", "bn1", "none"))
    x = images("resnet18", 2)
    assert torch.equal(together(x)[0], alone(x)[0])
    assert (alone(x)[0] < 0).any()


@torch.inference_mode()
def test_several_cuts_cost_one_pass_to_the_deepest():
    name, taps = "resnet18", [tap("resnet18", cut) for cut in ("layer3", "layer1", "layer2")]
    computing, deepest = trunk(name, *taps), taps[0][0]
    computing(images(name, 3))  # the first pass goes through joined convolutions both ways
    with FlopCounterMode(display=False, custom_mapping=JOINED) as counter:
        computing(images(name, 3))
    assert counter.get_total_flops() == 2 * 3 * deepest.multiply_adds_below
    convolutions = [layer for layer in computing.modules() if isinstance(layer, nn.Conv2d)]
    below = sum(layer.weight.numel() for layer in convolutions)
    assert below == sum(
        parameter.numel()
        for path, parameter in graph(name).module.named_parameters()
        if parameter.ndim == 4 and not path.startswith("layer4")
    )


@torch.no_grad()
def test_the_network_and_its_trunk_have_each_their_own_weights():
    module = load_backbone("squeezenet1_1", "none").module.requires_grad_(True)
    cut_graph, x = CutGraph(module, 64), torch.randn(1, 3, 64, 64)
    cut, before = cut_graph.resolve("auto"), copy.deepcopy(module.state_dict())
    strides = {name: parameter.stride() for name, parameter in module.named_parameters()}
    computing = FrozenTrunk(cut_graph, [(cut, Pool("avg", cut))], "bf16", CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert {name: parameter.stride() for name, parameter in module.named_parameters()} == strides
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in computing.parameters())
    expected = computing(x)[0]
    for parameter in module.parameters():
        parameter.zero_()
    assert torch.equal(computing(x)[0], expected)


def test_trunk_stays_in_evaluation_mode():
    computing = trunk("efficientnet_b0", tap("efficientnet_b0", "auto"))
    nn.Sequential(computing).train()
    computing.train()
    assert not any(layer.training for layer in computing.modules())


def test_kernels_lie_channels_last():
    kernels = [parameter for parameter in trunk(LITE, tap(LITE, "auto")).parameters() if parameter.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert any(not kernel.is_contiguous() for kernel in kernels)


def test_what_is_computed_is_known_before_it_is():
    for precision, arithmetic in ARITHMETIC.items():
        assert trunk("resnet18", tap("resnet18", "layer1"), precision=precision).arithmetic == arithmetic
    assert trunk("resnet18", tap("resnet18", "layer1")).folded == 5


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_every_family_computes_in_bfloat16(name):
    cut_graph, x = graph(name), images(name, 1)
    shallow, deep = cut_graph.cuts[len(cut_graph.cuts) // 8], cut_graph.resolve("auto")
    below, whole = (trunk(name, (cut, Pool("none", cut)), precision="bf16") for cut in (shallow, deep))
    state = whole.state_dict().values()
    assert all(tensor.dtype == torch.bfloat16 for tensor in state if tensor.is_floating_point())
    rows = whole(x)[0]
    assert rows.dtype == torch.float32
    assert torch.isfinite(rows).all()
    # Compared near the bottom: the deepest networks with random weights magnify any rounding beyond all measure.
    assert 1e-4 < error(below(x)[0], cut_graph.section(None, shallow)(x)) < 3e-2


@torch.inference_mode()
def test_bfloat16_is_pooled_in_float32():
    rows, pooled = trunk(LITE, tap(LITE, "blocks.2", "none"), tap(LITE, "blocks.2"), precision="bf16")(images(LITE, 2))
    assert torch.equal(rows, rows.bfloat16().float())
    assert torch.equal(pooled, rows.mean((2, 3)))
    assert not torch.equal(pooled, pooled.bfloat16().float())


@pytest.mark.parametrize("name", ["resnet18", VIT])
@torch.inference_mode()
def test_half_precision_computes_around_weights_in_float32(name):
    at, x = tap(name, "auto"), images(name, 2)
    computing = trunk(name, at, precision="fp16")
    assert all(parameter.dtype == torch.float32 for parameter in computing.parameters())
    rows, exact = computing(x)[0], trunk(name, at)(x)[0]
    assert rows.dtype == torch.float32
    assert 1e-5 < error(rows, exact) < 2e-2


@torch.inference_mode()
def test_reduced_precision_does_not_depend_on_what_else_is_extracted():
    name, x = LITE, images(LITE, 2)
    cuts = ("blocks.1", "blocks.3", "auto")
    for precision in ("bf16", "fp16"):
        together = trunk(name, *(tap(name, cut) for cut in cuts), precision=precision)(x)
        for rows, cut in zip(together, cuts, strict=True):
            assert torch.equal(rows, trunk(name, tap(name, cut), precision=precision)(x)[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cut_before_a_batchnorm_is_refused_beside_deeper_ones_in_reduced_precision(precision):
    stem, middle, deep = (tap("resnet18", cut) for cut in ("conv1", "layer1", "auto"))
    with pytest.raises(
        UsageError, match=r"'conv1' lies between .* those of 'layer1\.1\.relu_1'.*Extract that cut alone"
    ):
        trunk("resnet18", deep, stem, middle, precision=precision)
    assert trunk("resnet18", stem, precision=precision).folded == 0
    assert trunk("resnet18", middle, deep, precision=precision).folded == 20
    assert trunk("resnet18", stem, deep).folded == 19


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@torch.inference_mode()
def test_float32_means_float32_whatever_torch_is_set_to(device):
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = []
        x = images("resnet18", 1)
        for precision in ("fp32", "bf16"):
            computing = trunk("resnet18", tap("resnet18", "layer1"), precision=precision, device=torch.device(device))
            computing.sections[0].register_forward_hook(lambda *_: allowed.append(settings()))
            computing(x)
        assert allowed == [("highest", False), ("medium", True)]
        assert settings() == allowed[1]
    finally:
        torch.set_float32_matmul_precision("highest")


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", [LITE, VIT, "swin_t"])
@torch.inference_mode()
def test_features_have_the_same_bits_whatever_torch_is_set_to(name):
    computing, x = trunk(name, tap(name, "auto"), tap(name, "auto", "none")), images(name, 2)
    plain = computing(x)
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(torch.equal(*rows) for rows in zip(plain, computing(x), strict=True))
    finally:
        torch.set_float32_matmul_precision("highest")


@torch.inference_mode()
def test_a_trunk_is_compiled_as_one_graph_within_its_precision(monkeypatch, request):
    if request.config.getoption("--pretend-cuda"):
        pytest.skip("the stand-in looks at every operator, so that none are compiled together")
    monkeypatch.setattr("stages.network.graph.trunk.can_fuse", lambda *_: False)  # which is of a CPU
    computing, x = trunk("resnet18", tap("resnet18", "layer2"), tap("resnet18", "auto")), images("resnet18", 2)
    plain, graphs, said = computing(x), [], []

    def compile_graph(module, _):
        graphs.append(module)
        return lambda *inputs: (said.append(settings()), module.forward(*inputs))[1]

    torch.set_float32_matmul_precision("medium")
    try:
        computing.compile(backend=compile_graph, dynamic=False)
        assert all(torch.equal(*rows) for rows in zip(plain, computing(x), strict=True))
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.compiler.reset()
    assert len(graphs) == 1
    assert said == [("highest", False)]


@torch.inference_mode()
def test_threads_of_a_cpu_leave_the_settings_of_the_process_alone():
    before = torch.backends.cudnn.allow_tf32
    computing = trunk("resnet18", tap("resnet18", "layer1"))
    x = images("resnet18", 1)
    with single_thread_pool(4, "forward") as pool:
        list(pool.map(lambda _: computing(x), range(16)))
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [LITE, "resnet18", VIT])
@torch.inference_mode()
def test_features_do_not_depend_on_the_other_images_of_the_batch(name, precision):
    computing = trunk(name, tap(name, "auto"), precision=precision)
    x = images(name, 8)
    rows = computing(x)[0]
    order = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    assert torch.equal(computing(x[order])[0], rows[order])
    for index in (0, 5, 7):
        lonely = torch.zeros_like(x)
        lonely[index] = x[2]
        assert torch.equal(computing(lonely)[0][index], rows[2])


def flags(*names):
    return (
        f"processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu sse2 {' '.join(names)} avx512f\nbugs\t\t: mds\n"
    )


def test_processors_that_multiply_bfloat16():
    assert lists_bfloat16(flags("avx512_bf16"))
    assert lists_bfloat16(flags("amx_bf16", "amx_tile"))
    assert not lists_bfloat16(flags("avx512_vnni"))
    assert not lists_bfloat16(flags("avx512_bf16_like"))


def test_best_precision_is_what_the_device_computes_by_itself():
    listed = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert auto_precision(CPU) == ("bf16" if lists_bfloat16(listed) else "fp32")
    assert auto_precision(torch.device("mps")) == "fp32"


@pytest.mark.usefixtures("gpu")
@torch.inference_mode()
def test_features_of_the_gpu_are_those_of_the_processor():
    """Random weights magnify rounding: of 2.4e-7 in each layer, drawn on a CPU, Lite0 makes 7e-5 of its largest feature.

    Factors rounded to TF32 change those of the transformer by 9e-4, and of the others by more.
    """
    device = torch.device("cuda")
    for name in (VIT, "resnet18", LITE):
        at, x = tap(name, "auto"), images(name, 4)
        exact = trunk(name, at)(x)[0]
        rows = FrozenTrunk(graph(name), [at], "fp32", device)(x.to(device))[0].cpu()
        torch.testing.assert_close(rows, exact, rtol=0, atol=3e-4 * exact.abs().max().item())
    assert auto_precision(device) in ("bf16", "fp16")


def test_batches_fit_into_the_memory_that_is_free():
    cut_graph = CutGraph(load_backbone("resnet50", "none").module, 224)
    deep, stem = cut_graph.resolve("auto"), cut_graph.resolve("conv1")
    megabytes = 10**6
    sizes = [
        auto_batch_size(cut_graph, deep, "fp32", CPU, free_bytes=free * megabytes)
        for free in (0, 200, 800, 10_000, 10**6)
    ]
    assert sizes == [1, 2, 8, 16, 16]
    assert auto_batch_size(cut_graph, deep, "fp32", CPU, threads=4, free_bytes=800 * megabytes) == 2
    assert auto_batch_size(cut_graph, deep, "bf16", CPU, free_bytes=200 * megabytes) == 4
    assert auto_batch_size(cut_graph, stem, "fp32", CPU, free_bytes=400 * megabytes) > auto_batch_size(
        cut_graph, deep, "fp32", CPU, free_bytes=400 * megabytes
    )
    accelerator = torch.device("cuda")
    sizes = [auto_batch_size(cut_graph, deep, "fp32", accelerator, free_bytes=free * 10**9) for free in (4, 80)]
    assert sizes == [32, 256]
    assert 1 <= auto_batch_size(cut_graph, deep, "fp32", CPU) <= 16

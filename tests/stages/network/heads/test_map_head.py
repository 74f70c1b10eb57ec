import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from cache.errors import UsageError
from stages.network.heads.deeplabv3 import scaled_rates
from stages.network.heads.map_head import normalized_product, pointwise
from stages.network.heads.registry import build_head
from stages.network.heads.serialization import load_head, save_head
from stages.network.map_layout import MapLayout

HEADS = ("linear", "fcn", "deeplabv3", "lraspp")
LAYOUT = MapLayout(((8, 12, 15), (16, 6, 8), (24, 3, 4)))


def head_for(name, layout=LAYOUT, classes=5):
    torch.manual_seed(0)
    return build_head(name, (layout.width,), classes, {"maps": layout.to_json(), "dropout": 0.1})


def rows_of(layout=LAYOUT, count=2):
    return torch.randn(count, layout.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_logits_for_each_place_of_the_finest_map(name):
    assert head_for(name)(rows_of()).shape == (2, 5, 12, 15)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shapes", [((8, 5, 7),), ((8, 5, 7), (4, 3, 4))])
def test_a_head_takes_one_map_and_sizes_that_were_rounded_up(name, shapes):
    layout = MapLayout(shapes)
    assert head_for(name, layout).eval()(rows_of(layout)).shape == (2, 5, 5, 7)


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_is_the_same_head(name, tmp_path):
    head = head_for(name)
    head(rows_of())  # so that BatchNorm has statistics
    save_head(tmp_path / "head", head, {})
    loaded, _ = load_head(tmp_path / "head")
    assert torch.equal(loaded(rows_of()), head.eval()(rows_of()))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_without_maps_is_refused_by_what_it_needs(name):
    if name == "linear":
        assert build_head(name, (7,), 5, {"maps": None})(torch.randn(2, 7)).shape == (2, 5)  # on vectors
        return
    with pytest.raises(UsageError, match="`pool` none"):
        build_head(name, (7,), 5, {"maps": None})


def test_a_linear_head_before_upsampling_equals_one_after_it():
    head = head_for("linear").eval()
    maps = LAYOUT.split(rows_of())
    joined = torch.cat(
        [
            functional.interpolate(norm(part), (12, 15), mode="bilinear", align_corners=False)
            for part, norm in zip(maps, head.norms, strict=True)
        ],
        dim=1,
    )
    weight = torch.cat([output.weight for output in head.outputs], dim=1)
    after = functional.conv2d(joined, weight, head.outputs[0].bias)
    torch.testing.assert_close(head(rows_of()), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_normalized_product_is_batchnorm_dropout_and_convolution_one_after_the_other(momentum):
    maps = torch.randn(3, 8, 5, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1
    torch.manual_seed(0)
    norm, convolution, dropout = nn.BatchNorm2d(8, momentum=momentum), nn.Conv2d(8, 4, 1), nn.Dropout2d(0.5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    other_norm, other = copy.deepcopy(norm), copy.deepcopy(convolution)
    torch.manual_seed(1)
    one_by_one = other(dropout(other_norm(maps)))
    torch.manual_seed(1)
    at_once, means = normalized_product(maps, norm, convolution, dropout(torch.ones(3, 8, 1, 1)))
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-5)
    for logits in (at_once, one_by_one):
        logits.square().sum().backward()
    pairs = [*zip(norm.parameters(), other_norm.parameters(), strict=True)]
    pairs += [*zip(convolution.parameters(), other.parameters(), strict=True)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(norm.buffers(), other_norm.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    norm.eval(), other_norm.eval()
    evaluated, means = normalized_product(maps, norm, convolution)
    torch.testing.assert_close(evaluated, other(other_norm(maps)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means, other_norm(maps).mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 40])
def test_a_normalized_product_of_many_channels_has_them_last_and_is_pointwise_taken_on(channels):
    maps = torch.randn(2, 8, 5, 7)
    part, _ = normalized_product(maps, nn.BatchNorm2d(8), nn.Conv2d(8, channels, 1))
    assert part.is_contiguous(memory_format=torch.channels_last) == (channels == 40)
    convolution = nn.Conv2d(channels, 3, 1)
    torch.testing.assert_close(pointwise(part, convolution), convolution(part), rtol=1e-4, atol=1e-5)


def test_statistics_of_channels_far_from_zero_are_those_of_batchnorm():
    offsets = torch.tensor([0.0, 1.0, 30.0, -100.0])[:, None, None]
    maps = torch.randn(4, 4, 9, 9, generator=torch.Generator().manual_seed(0)) + offsets
    norm, theirs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    normalized_product(maps, norm, nn.Conv2d(4, 2, 1))
    theirs(maps)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.running_var, theirs.running_var, rtol=5e-3, atol=1e-3)
    constant = torch.full((2, 4, 3, 3), 7.0)
    assert torch.isfinite(normalized_product(constant, norm, nn.Conv2d(4, 2, 1))[0]).all()


@pytest.mark.parametrize("name", ["fcn", "deeplabv3", "lraspp"])
def test_convolutions_in_bf16_are_for_training_and_round_a_little(name):
    head = head_for(name).train()
    torch.manual_seed(0)
    exact = head(rows_of())
    head.convolves_in_bf16 = True
    torch.manual_seed(0)
    rounded = head(rows_of())
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()
    rounded.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in head.parameters())
    head.eval()
    evaluated = head(rows_of())
    head.convolves_in_bf16 = False
    assert torch.equal(evaluated, head(rows_of()))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_trains_within_mixed_precision_of_others(name):
    head = head_for(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(rows_of().bfloat16())
    logits.float().square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


@pytest.mark.parametrize(("name", "make"), [("fcn", FCNHead), ("deeplabv3", DeepLabHead)])
def test_heads_of_torchvision_give_what_torchvisions_give(name, make):
    layout = MapLayout(((16, 9, 12),))
    maps = layout.split(rows_of(layout))[0]
    original = make(16, 5) if name == "fcn" else make(16, 5, scaled_rates((16, 9, 12)))
    head = head_for(name, layout).eval()
    head.norm = torch.nn.Identity()
    head.head.load_state_dict(original.eval().state_dict())
    assert torch.equal(head(rows_of(layout)), original(maps))


def test_heads_on_one_map_take_the_middle_one():
    assert head_for("fcn").norm.num_features == head_for("deeplabv3").norm.num_features == 16


def test_masks_are_thinned_to_the_finest_map_and_no_further_than_small_things_bear():
    fine = MapLayout(((8, 45, 60), (16, 23, 30)))
    assert head_for("linear", fine).label_size == (45, 60)
    assert head_for("lraspp", fine).label_size == (90, 120)
    assert head_for("fcn", MapLayout(((16, 23, 30),))).label_size == (46, 60)
    assert head_for("linear", MapLayout(((8, 128, 64),))).label_size == (128, 64)


@pytest.mark.parametrize("far", [1, 100, 3000])
def test_channels_far_from_zero_are_normalized_as_by_batchnorm(far):
    maps = torch.randn(3, 8, 5, 7, generator=torch.Generator().manual_seed(0)) + far * torch.arange(1, 9)[:, None, None]
    norm, convolution = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
    other = copy.deepcopy(norm)
    expected = convolution(other(maps.double().float()))
    at_once, _ = normalized_product(maps, norm, convolution)
    torch.testing.assert_close(at_once, expected, rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(norm.running_var, other.running_var, rtol=1e-2, atol=1e-3)

"""The cut: where networks can be divided, and that the parts compute what the whole does."""

import copy
import itertools

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cache.errors import UsageError
from stages.network.classifier import output_layers
from stages.network.graph.cuts import Boundary, CutGraph, check_image_size, layout_of
from stages.network.module_paths import ancestor_paths, has_prefix
from tests.stages.network.networks import FAMILIES, NOISY, graph, images, network


def spread(name):
    """The first, last and auto cut of a network, and the one in its middle; for the slowest ones, fewer.

    That a network can be divided at each of its cuts is looked at for two of them.
    """
    cuts, auto = graph(name).cuts, graph(name).resolve("auto")
    if FAMILIES[name] == 224 or name in ("maxvit", "inception_v3"):
        return {cuts[len(cuts) // 2], auto}
    return {cuts[0], cuts[len(cuts) // 2], cuts[-1], auto}


def train_with_seed(module, x, seed):
    module.train()
    torch.manual_seed(seed)
    return module(x)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_top_of_trunk_is_the_network_for_any_batch(name):
    count = 1 if FAMILIES[name] == 224 else 3
    x, cut_graph = images(name, count), graph(name)
    expected = network(name)(x)
    assert expected[0].std() > 0
    assert count == 1 or not torch.allclose(expected[0], expected[1])
    for cut in spread(name):
        features = cut_graph.section(None, cut)(x)
        assert features.shape == (count, *cut.shape)
        before, top = features.clone(), cut_graph.section(cut, None)
        assert torch.equal(top(features), expected), cut.name
        assert torch.equal(features, before), f"the top of {cut.name} wrote into the cached features"
        if count > 1:
            torch.testing.assert_close(top(features[:1]), expected[:1], rtol=1e-3, atol=1e-3 * expected.std().item())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
@torch.no_grad()
def test_every_cut_divides_the_network(name):
    x, cut_graph = images(name, 2), graph(name)
    expected = network(name)(x)
    for cut in cut_graph.cuts:
        assert torch.equal(cut_graph.section(cut, None)(cut_graph.section(None, cut)(x)), expected), cut.name


@given(data=st.data())
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_sections_compose_at_any_two_cuts(data):
    x, cut_graph = images("timm:tf_efficientnet_lite0", 1), graph("timm:tf_efficientnet_lite0")
    low, high = sorted(data.draw(st.lists(st.integers(0, len(cut_graph.cuts) - 1), min_size=2, max_size=2)))
    low, high = cut_graph.cuts[low], cut_graph.cuts[high]
    middle = cut_graph.section(low, high)(cut_graph.section(None, low)(x))
    assert torch.equal(middle, cut_graph.section(None, high)(x))


@pytest.mark.parametrize("name", ["resnet18", "timm:tf_efficientnet_lite0"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_a_section_gives_what_crosses_at_cuts_on_its_way_too_even_where_what_follows_works_in_place(
    name, training, folded
):
    # of its own: what trains changes the statistics of its BatchNorm layers
    cut_graph, x = CutGraph(copy.deepcopy(network(name)), FAMILIES[name]), images(name, 2)
    for cuts in (cut_graph.cuts[2::9], cut_graph.cuts[1::5]):
        start, *middle, end = cuts[-4:]
        features = cut_graph.section(None, start)(x).detach()
        section = cut_graph.section(start, end, (), outputs=middle, folded=folded).train(training)
        *maps, last = section(features)
        assert len(maps) == len(middle)
        for cut, output in zip([*middle, end], [*maps, last], strict=True):
            expected = cut_graph.section(start, cut)(features)
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


@pytest.mark.parametrize("case", NOISY)
@torch.no_grad()
def test_sections_have_the_noise_of_training_in_training_and_none_in_evaluation(case):
    size, build = NOISY[case]
    module = build()
    for layer in output_layers(module):
        nn.init.normal_(module.get_parameter(f"{layer}.weight"), std=0.05)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    cut_graph = CutGraph(module.eval(), size)
    cut = cut_graph.cuts[len(cut_graph.cuts) // 2]
    trunk, top, whole = cut_graph.section(None, cut), cut_graph.section(cut, None), cut_graph.section(None, None)

    noisy = train_with_seed(module, x, seed=1)
    torch.testing.assert_close(train_with_seed(whole, x, seed=1), noisy)
    torch.manual_seed(1)
    torch.testing.assert_close(top.train()(trunk.train()(x)), noisy)
    assert not torch.allclose(train_with_seed(whole, x, seed=2), noisy)

    expected = module.eval()(x)
    for part in (trunk, top, whole):
        part.eval()
    assert torch.equal(top(trunk(x)), expected)
    assert torch.equal(whole(x), expected)
    assert not torch.allclose(noisy, expected)


@torch.no_grad()
def test_training_mode_of_a_section_moves_only_its_own_batchnorm():
    cut_graph = CutGraph(torchvision.models.resnet18().eval(), 64)
    cut = cut_graph.resolve("layer3")
    top, before = cut_graph.section(cut, None), copy.deepcopy(cut_graph.module.state_dict())
    top.train()(torch.randn(4, *cut.shape))
    moved = {name for name, tensor in cut_graph.module.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == {name for name in before if name.startswith("layer4") and name.endswith(statistics)}
    before = copy.deepcopy(cut_graph.module.state_dict())
    top.eval()(torch.randn(4, *cut.shape))
    assert all(torch.equal(tensor, before[name]) for name, tensor in cut_graph.module.state_dict().items())


@torch.no_grad()
def test_inplace_dropout_of_the_top_leaves_cached_features_alone_in_training():
    cut_graph = graph("efficientnet_b0")
    cut = cut_graph.resolve("auto")
    features = torch.ones(8, *cut.shape)
    assert cut_graph.module.classifier[0].inplace
    cut_graph.section(cut, None).train()(features)
    network("efficientnet_b0").eval()
    assert torch.equal(features, torch.ones_like(features))


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm:eva02_tiny_patch14_224", "timm:vit_tiny_patch16_224"])
def test_sections_hold_the_networks_own_tensors_under_their_own_names(name):
    cut_graph = graph(name)
    cut = cut_graph.cuts[len(cut_graph.cuts) // 2]
    trunk, top, whole = cut_graph.section(None, cut), cut_graph.section(cut, None), network(name)
    names = {*trunk.state_dict(), *top.state_dict()}
    assert names == {*whole.state_dict()}
    assert not {name for name, _ in trunk.named_parameters()} & {name for name, _ in top.named_parameters()}
    for part in (trunk, top):
        assert all(parameter is whole.get_parameter(name) for name, parameter in part.named_parameters())


@torch.no_grad()
def test_sections_can_be_copied():
    cut_graph = graph("resnet18")
    top = cut_graph.section(cut_graph.resolve("layer3"), None)
    twin = copy.deepcopy(top)
    x = torch.randn(2, 256, 4, 4)
    expected = top(x)
    assert torch.equal(twin(x), expected)
    twin.get_parameter("fc.bias").add_(1)
    assert torch.equal(top(x), expected)
    torch.testing.assert_close(twin(x), expected + 1)


def test_tracing_leaves_the_network_in_the_modes_it_was_in():
    module = torchvision.models.resnet18().train()
    module.layer1.eval()
    modes = {name: layer.training for name, layer in module.named_modules()}
    before = copy.deepcopy(module.state_dict())
    CutGraph(module, 64).section(None, None)
    assert modes == {name: layer.training for name, layer in module.named_modules()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_16", "swin_t"])
def test_costs_are_those_torchvision_publishes(name):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    logits = (graph(name) if FAMILIES[name] == 224 else CutGraph(network(name), 224)).cuts[-1]
    assert logits.parameters_below == meta["num_params"]
    assert logits.multiply_adds_below == pytest.approx(meta["_ops"] * 1e9, rel=0.01)
    assert logits.parameters_above == logits.multiply_adds_above == 0


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm:vit_tiny_patch16_224"])
def test_costs_below_grow_and_add_up_with_those_above(name):
    cuts = graph(name).cuts
    for lower, upper in itertools.pairwise(cuts):
        assert lower.parameters_below <= upper.parameters_below
        assert lower.multiply_adds_below <= upper.multiply_adds_below
    assert len({cut.parameters_below + cut.parameters_above for cut in cuts}) == 1
    assert len({cut.multiply_adds_below + cut.multiply_adds_above for cut in cuts}) == 1


@pytest.mark.parametrize(
    ("name", "auto", "shape", "layout"),
    [
        ("resnet18", "flatten", (512,), "vector"),
        ("alexnet", "classifier.5", (4096,), "vector"),
        ("squeezenet1_1", "features.12.cat", (512, 3, 3), "nchw"),
        ("efficientnet_b0", "flatten", (1280,), "vector"),
        ("vit_b_16", "getitem_5", (768,), "vector"),
        ("convnext_tiny", "classifier.1", (768,), "vector"),
        ("timm:tf_efficientnet_lite0", "global_pool.flatten", (1280,), "vector"),
        ("timm:eva02_tiny_patch14_224", "fc_norm.layer_norm", (192,), "vector"),
    ],
)
def test_auto_is_the_input_of_the_classifier(name, auto, shape, layout):
    cut = graph(name).resolve("auto")
    assert (cut.name, cut.shape, cut.layout) == (auto, shape, layout)


@pytest.mark.parametrize(
    ("name", "cut", "layout", "prefix", "class_token"),
    [
        ("resnet18", "layer4", "nchw", 0, False),
        ("swin_t", "features.7", "nhwc", 0, False),
        ("vit_b_16", "conv_proj", "nchw", 0, False),
        ("vit_b_16", "permute", "tokens", 0, False),
        ("vit_b_16", "encoder.layers.encoder_layer_3", "tokens", 1, True),
        ("timm:vit_tiny_patch16_224", "blocks.3", "tokens", 1, True),
    ],
)
def test_layouts_say_what_the_dimensions_are(name, cut, layout, prefix, class_token):
    resolved = graph(name).resolve(cut)
    assert (resolved.layout, resolved.prefix_tokens, resolved.class_token) == (layout, prefix, class_token)


def test_no_cut_is_a_stack_of_windows_or_a_flattened_map():
    sides = [cut.shape[1] for cut in graph("maxvit").cuts if cut.layout == "nchw"]
    assert sides == sorted(sides, reverse=True)
    assert next(cut.shape for cut in graph("vit_b_16").cuts if cut.layout == "tokens") == (196, 768)


def test_layout_of_rows():
    assert layout_of((5,)) == "vector"
    assert layout_of((49, 8)) == "tokens"
    assert layout_of((8, 7, 7)) == "nchw"
    assert layout_of((7, 7, 8)) == "nhwc"
    assert layout_of((512, 1, 1)) == "nchw"
    assert layout_of((7, 7, 7), ambiguous="nhwc") == "nhwc"
    assert layout_of((64, 49, 64)) is None
    assert layout_of((2, 2, 2, 2)) is None


def test_a_map_of_an_image_that_is_no_square_has_its_proportions_to_within_rounding():
    road = (360, 480)
    for sides in ((180, 240), (23, 30), (12, 15), (6, 8), (1, 1)):
        assert layout_of((112, *sides), image_shape=road) == "nchw"
        assert layout_of((*sides, 112), image_shape=road) == "nhwc"
    assert layout_of((112, 30, 23), image_shape=road) is None  # on its side
    assert layout_of((112, 23, 23), image_shape=road) is None


@pytest.mark.parametrize(("name", "cut"), [("resnet18", "layer3"), ("swin_t", "features.5")])
def test_a_network_is_cut_for_images_that_are_no_squares(name, cut):
    rectangular = CutGraph(graph(name).module, "96x160")
    resolved = rectangular.resolve(cut)
    sides = resolved.shape[1:] if resolved.layout == "nchw" else resolved.shape[:2]
    assert sides == (6, 10)
    images = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = rectangular.section(None, resolved).eval()(images)
        assert tuple(features.shape[1:]) == resolved.shape
        torch.testing.assert_close(rectangular.section(resolved, None).eval()(features), graph(name).module(images))


def test_module_names_mean_the_last_cut_inside():
    cut_graph = graph("resnet18")
    assert cut_graph.resolve("layer4").name == cut_graph.resolve("layer4.1").name == "layer4.1.relu_1"
    assert cut_graph.resolve("layer4").alias == "layer4"
    assert cut_graph.resolve("layer4.0.relu_1").alias == "layer4.0"
    assert cut_graph.resolve("layer1.1.relu").name == "layer1.1.relu_1"
    assert cut_graph.resolve("conv1").alias == ""
    for cut in cut_graph.cuts:
        assert cut_graph.resolve(cut.name) == cut
        assert not cut.alias or cut_graph.resolve(cut.alias) == cut


def test_layer_in_a_residual_branch_is_refused_with_what_else_crosses_and_the_nearest_cuts():
    with pytest.raises(UsageError) as refused:
        graph("resnet18").resolve("layer2.0.conv1")
    message = str(refused.value)
    assert "'layer1.1.relu_1' is still needed above it" in message
    assert "Nearest cuts: 'layer1.1.relu_1' below and 'layer2.0.add' above" in message


def test_unknown_layer_is_refused_with_the_nearest_names():
    with pytest.raises(UsageError, match=r"no layer 'layer9'.*'layer"):
        graph("resnet18").resolve("layer9")
    with pytest.raises(
        UsageError, match=r"no layer 'blocks.4'. It can be cut at layer1, layer2, layer3, layer4, auto and"
    ):
        graph("resnet18").resolve("blocks.4")
    with pytest.raises(UsageError, match=r"one step"):
        graph("vit_b_16").resolve("encoder.layers.encoder_layer_3.self_attention.out_proj")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("conv1", "layer1", "layer2", "layer3", "layer4")),
        ("timm:tf_efficientnet_lite0", ("conv_stem", *(f"blocks.{n}" for n in range(7)), "conv_head")),
        ("vit_b_16", ("conv_proj", *(f"encoder.layers.encoder_layer_{n}" for n in range(12)))),
        ("regnet_y_400mf", ("stem", *(f"trunk_output.block{n}" for n in range(1, 5)))),
        ("alexnet", (*(f"features.{n}" for n in (0, 3, 6, 8, 10)), "classifier")),
    ],
)
def test_blocks_are_the_children_of_the_main_sequence(name, expected):
    assert graph(name).blocks == expected


@pytest.mark.parametrize(
    ("name", "unfreeze", "cut", "trainable"),
    [
        ("resnet18", "layer4", "layer3.1.relu_1", ("layer4", "fc")),
        ("resnet18", "2", "layer2.1.relu_1", ("layer3", "layer4", "fc")),
        ("resnet18", "fc", "flatten", ("fc",)),
        ("resnet18", "conv1", None, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")),
        ("resnet18", "all", None, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")),
        (
            "resnet18",
            "layer4.0.conv2",
            "layer3.1.relu_1",
            ("layer4.0.conv2", "layer4.0.bn2", "layer4.0.downsample", "layer4.1", "fc"),
        ),
        (
            "timm:tf_efficientnet_lite0",
            "3",
            "blocks.4.2.add",
            ("blocks.5", "blocks.6", "conv_head", "bn2", "classifier"),
        ),
        (
            "vit_b_16",
            "1",
            "encoder.layers.encoder_layer_10.add_1",
            ("encoder.layers.encoder_layer_11", "encoder.ln", "heads"),
        ),
        # just these, wherever they lie
        ("resnet18", "layer2,layer4", "layer1.1.relu_1", ("layer2", "layer4")),
        ("resnet18", "fc, layer3", "layer2.1.relu_1", ("layer3", "fc")),
        ("resnet18", "layer3,", "layer2.1.relu_1", ("layer3",)),
        ("resnet18", "layer4.1.conv2.weight,", "layer4.0.relu_1", ("layer4.1.conv2",)),
        ("vit_b_16", "class_token,heads", "permute", ("class_token", "heads")),
        ("timm:vit_tiny_patch16_224", "pos_embed,", "cat", ("pos_embed",)),
        # what stands before the parameters of a named layer belongs to it
        ("efficientnet_b0", "classifier,", "flatten", ("classifier",)),
        # part of one step: it and everything above
        (
            "vit_b_16",
            "encoder.layers.encoder_layer_11.self_attention.out_proj",
            "encoder.layers.encoder_layer_10.add_1",
            (
                *(f"encoder.layers.encoder_layer_11.{name}" for name in ("self_attention", "ln_2", "mlp")),
                "encoder.ln",
                "heads",
            ),
        ),
    ],
)
def test_boundary_is_the_deepest_cut_below_everything_that_trains(name, unfreeze, cut, trainable):
    boundary = graph(name).boundary(unfreeze)
    assert (boundary.cut and boundary.cut.name, boundary.trainable) == (cut, trainable)


@pytest.mark.parametrize(
    ("unfreeze", "cut", "trainable"),
    [
        ("layer3", None, ("conv1", "bn1", "layer1", "layer2")),
        ("1", None, ("conv1", "bn1", "layer1", "layer2", "layer3")),
        ("conv1,bn1,layer1,fc", "layer1.1.relu_1", ("layer2", "layer3", "layer4")),
        (
            "layer4.1.conv2",
            None,
            ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4.0", "layer4.1.conv1", "layer4.1.bn1"),
        ),
    ],
)
def test_inverted_boundary_trains_what_would_be_frozen(unfreeze, cut, trainable):
    boundary = graph("resnet18").boundary(unfreeze, invert=True)
    assert (boundary.cut and boundary.cut.name, boundary.trainable) == (cut, trainable)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_list_and_its_inversion_divide_the_parameters(data):
    cut_graph = graph(
        data.draw(st.sampled_from(["resnet18", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"]))
    )
    parameters = {name for name, _ in cut_graph.module.named_parameters()}
    layers = {path for name in parameters for path in ancestor_paths(name)}
    selected = data.draw(st.lists(st.sampled_from(sorted(layers)), min_size=1, max_size=6))
    expected = {name for name in parameters if has_prefix(name, selected)}
    for boundary, trained in (
        (cut_graph.boundary(",".join(selected) + ","), expected),
        (cut_graph.boundary(",".join(selected) + ",", invert=True), parameters - expected),
    ):
        assert {name for name in parameters if has_prefix(name, boundary.trainable)} == trained
        assert not trained.intersection(cut_graph.parameters_between(None, boundary.cut) if boundary.cut else ())
        higher = cut_graph.cuts[cut_graph.cuts.index(boundary.cut) + 1] if boundary.cut else cut_graph.cuts[0]
        between = cut_graph.parameters_between(boundary.cut, higher)
        assert trained.intersection(between) or not between


def test_nothing_left_to_train_is_refused():
    cut_graph = graph("resnet18")
    for unfreeze in ("all", "conv1", "5"):
        with pytest.raises(UsageError, match=rf"`unfreeze` {unfreeze} with `invert_unfreeze` leaves nothing to train"):
            cut_graph.boundary(unfreeze, invert=True)
    with pytest.raises(UsageError, match=r"`unfreeze` classifier\.3 leaves nothing to train"):
        graph("squeezenet1_1").boundary("classifier.3")
    for layer in ("avgpool", "layer3.1.relu_1"):
        with pytest.raises(UsageError, match=rf"'{layer}' has no parameters"):
            cut_graph.boundary(f"layer4,{layer}")
    for unfreeze in ("", ","):
        with pytest.raises(UsageError, match="names no layer"):
            cut_graph.boundary(unfreeze)


def test_boundary_refuses_what_is_not_there():
    for unfreeze in ("0", "6"):
        with pytest.raises(UsageError, match=r"5 blocks.*layer4.*from 1 to 5"):
            graph("resnet18").boundary(unfreeze)
    with pytest.raises(UsageError, match=r"no layer 'layr4'.*'layer4'"):
        graph("resnet18").boundary("layr4")
    with pytest.raises(UsageError, match=r"no layer 'blocks.4'. Its blocks are conv1, layer1"):
        graph("resnet18").boundary("blocks.4")
    with pytest.raises(UsageError, match=r"no layer 'layr4'.*'layer4'"):
        graph("resnet18").boundary("layer3,layr4")


def test_section_downwards_is_refused():
    cut_graph = graph("resnet18")
    with pytest.raises(UsageError, match=r"'layer4.1.relu_1' up to 'conv1'"):
        cut_graph.section(cut_graph.resolve("layer4"), cut_graph.resolve("conv1"))


def test_wrong_image_size_is_a_message():
    with pytest.raises(UsageError, match=r"96 x 96 pixels .*Expected 224"):
        CutGraph(network("vit_b_16"), 96)
    with pytest.raises(UsageError, match="96 x 96"):
        check_image_size(network("vit_b_16"), 96)


class Branching(nn.Module):
    """Decides by the numbers in the image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


def test_network_that_cannot_be_traced_is_a_message():
    with pytest.raises(UsageError, match="Branching cannot be cut"):
        CutGraph(Branching(), 8)


class Tied(nn.Module):
    """Uses one layer twice."""

    def __init__(self):
        super().__init__()
        self.tied, self.top = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.top(self.tied(self.tied(x).relu())).mean((2, 3))


def test_layer_that_the_frozen_part_uses_too_does_not_train():
    cut_graph = CutGraph(Tied().eval(), 8)
    boundary = cut_graph.boundary("tied_1")
    assert (boundary.cut.name, boundary.trainable) == ("relu", ("top",))
    assert cut_graph.boundary("tied").trainable == ("tied", "top")


def test_layer_that_is_named_and_used_twice_trains_from_its_first_use():
    cut_graph = CutGraph(Tied().eval(), 8)
    for unfreeze in ("tied,", "tied_1,"):
        assert cut_graph.boundary(unfreeze) == Boundary(None, ("tied",))


class InPlace(nn.Module):
    """Changes a tensor in a statement that gives nothing back."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.body(self.stem(x))
        x.mul_(2)
        return x.mean((2, 3))


@torch.no_grad()
def test_statements_that_change_a_tensor_belong_to_the_section_above():
    module = InPlace().eval()
    cut_graph = CutGraph(module, 8)
    x = torch.randn(2, 3, 8, 8)
    cut = cut_graph.resolve("body")
    features = cut_graph.section(None, cut)(x)
    assert torch.equal(features, module.body(module.stem(x)))
    assert torch.equal(cut_graph.section(cut, None)(features), module(x))


class LateShape(nn.Module):
    """Asks for a size far below where it is needed, and keeps a table made of parameters alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(4.0))
        self.stem, self.body = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        batch, _, height, _ = x.shape
        bias = (self.table * 2).reshape(1, 4, 1, 1)
        x = self.body(self.stem(x).relu())
        return (x + bias).reshape(batch, 4, (height // 2) ** 2).mean(2)


@torch.no_grad()
def test_sizes_and_parameter_tables_do_not_cross_a_cut():
    module = LateShape().eval()
    cut_graph = CutGraph(module, 8)
    x = torch.randn(3, 3, 8, 8)
    cut = cut_graph.resolve("stem")
    assert torch.equal(cut_graph.section(cut, None)(cut_graph.section(None, cut)(x)), module(x))
    assert "table" in cut_graph.section(cut, None).state_dict()


class Residual(nn.Module):
    """Keeps a map for later, changes others where they are, looks at one in another shape, and hides four layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.hidden = torchvision.ops.MLP(4, [32, 32, 32, 4])

    def forward(self, x):
        kept = self.stem(x).relu_()
        x = self.body(kept).relu_() + kept
        return self.hidden(x.flatten(2).transpose(1, 2)).mean(1)


def test_peak_of_activations_is_what_is_alive_at_once():
    cut_graph = CutGraph(Residual().eval(), 8)
    image, block = 3 * 8 * 8 * 4, 4 * 8 * 8 * 4
    assert cut_graph.peak_activation_bytes(cut_graph.resolve("relu_")) == image + block
    assert cut_graph.peak_activation_bytes(cut_graph.resolve("add")) == 3 * block
    assert cut_graph.peak_activation_bytes(cut_graph.resolve("transpose")) == 3 * block
    # The hidden layers are one step of the graph; while they run, two of their outputs of 32 channels are there.
    assert cut_graph.peak_activation_bytes(cut_graph.cuts[-1]) == block + 2 * 8 * block

"""Where taps are found in networks of all kinds, and what is said where there are none."""

from functools import lru_cache

import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.network.graph.hooked import cut_graph
from stages.network.graph.tap_places import find_taps, layout_of_taps
from tests.stages.network.networks import graph

LITE, VIT = "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"


@lru_cache
def places(name, taps="all", pools=("avg", "max", "std")):
    return find_taps(graph(name), taps, pools)


@pytest.fixture(autouse=True, scope="module")
def no_place_outlives_the_file():
    yield
    places.cache_clear()  # they are nodes of graphs


def of_kind(name, kind, **asked):
    return [place.tensor.name for place in places(name, **asked) if place.kind == kind]


def test_every_block_of_lite0_is_tapped_and_every_expanded_activation_in_one():
    layout = layout_of_taps(places(LITE))
    widths = {word: layout.select(names).width for word, names in layout.depth_sets().items()}
    outputs = [32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    inner = [32, 96, 144, 144, 240, 240, 480, 480, 480, 672, 672, 672, 1152, 1152, 1152, 1152]
    stages = [32, 16, 24, 40, 80, 112, 192, 320]
    last = 3 * 1280
    assert widths == {
        "last": last,
        "stages": last + 3 * sum(stages),
        "blocks": last + 3 * sum(outputs),
        "all": last + 3 * sum(outputs) + 2 * sum(inner),
    }
    assert layout.blocks[-1].name == "global_pool.flatten:none"  # what a head on the last layer alone is given
    assert of_kind(LITE, "last") == ["bn2", "global_pool.flatten"]


def test_words_take_more_and_more_of_the_same_tensors():
    smaller = []
    for word in ("last", "stages", "blocks", "all"):
        names = [block.name for block in layout_of_taps(places(LITE, word)).blocks]
        assert [name for name in names if name in smaller] == smaller
        assert len(names) > len(smaller)
        smaller = names


def test_of_a_vision_transformer_the_class_token_and_the_patches_of_every_block_are_taken():
    blocks = layout_of_taps(places(VIT, pools=("avg",))).blocks
    names = [block.name for block in blocks]
    for number in range(11):
        assert {f"blocks.{number}.add_1:cls", f"blocks.{number}.add_1:avg"} <= {*names}
    inner = [block for block in blocks if block.kind == "inner"]
    assert {block.width for block in inner} == {4 * 192}
    assert len(inner) == 2 * 12
    assert names[-1].endswith(":none")
    assert layout_of_taps(places(VIT, pools=("avg",))).depth_sets().keys() == {"last", "stages", "all"}


INNER = {
    "resnet18": 8,  # between the two convolutions of each block
    "mobilenet_v3_large": 15,  # after the gate
    "timm:convnext_atto": 12,
}


@pytest.mark.parametrize("name", INNER)
def test_the_stages_and_blocks_of_a_family_and_the_activation_inside_each_are_found(name):
    found = places(name, pools=("avg",))
    names = [place.tensor.name for place in found]
    assert len({*names}) == len(names)
    assert names[-1] == graph(name).resolve("auto").name
    assert len(of_kind(name, "stage", pools=("avg",))) >= 4
    assert len(of_kind(name, "inner", pools=("avg",))) == INNER[name]
    assert all(len(pool.shape) == 1 for place in found for pool in place.pools)


def test_patterns_are_matched_part_by_part():
    assert [place.tensor.name for place in places(LITE, "blocks.1.*")] == ["blocks.1.0.bn3", "blocks.1.1.add"]
    assert [place.tensor.name for place in places(LITE, "blocks.1.*.conv_dw, blocks.[56]")] == [
        *("blocks.1.0.conv_dw", "blocks.1.1.conv_dw", "blocks.5.3.add", "blocks.6.0.bn3")
    ]
    known = {place.tensor.name: place.kind for place in places(LITE, "blocks.1,blocks.1.0,blocks.1.1.conv_dw")}
    assert known == {"blocks.1.0.bn3": "block", "blocks.1.1.conv_dw": "inner", "blocks.1.1.add": "stage"}


def test_what_matches_nothing_is_refused_with_what_is_near():
    with pytest.raises(UsageError, match=r"matches 'blocks.9', part by part\. Did you mean .*'blocks.\d'"):
        places(LITE, "blocks.9")
    with pytest.raises(UsageError, match=r"'stage', part by part\. Did you mean 'stages'"):
        places(LITE, "stage")


def test_poolings_that_make_no_vector_are_refused():
    with pytest.raises(UsageError, match="`taps` are vectors, and `pool` none keeps places"):
        places(LITE, "stages", ("none",))
    with pytest.raises(UsageError, match="std is not taken of what lies inside blocks; add avg"):
        places(LITE, "blocks.1.1.conv_dw", ("std",))


class Undecided(nn.Module):
    """Cannot be traced: it looks at its images."""

    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.layers = blocks
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        maps = self.stem(images)
        for layer in self.layers.children():
            if maps.mean() > -10:
                maps = layer(maps)
        return self.fc(maps.mean((2, 3)))


def convolution():
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())


@torch.no_grad()
def test_blocks_of_a_network_that_cannot_be_traced_are_the_members_of_its_lists():
    hooked = cut_graph(Undecided(nn.ModuleList([convolution() for _ in range(3)])).eval(), 16)
    found = {place.tensor.name: place.kind for place in find_taps(hooked, "all", ("avg",))}
    assert found == {"layers.0": "block", "layers.1": "block", "layers.2": "last"}
    assert [place.tensor.name for place in find_taps(hooked, "stem, layers.*.0", ("avg",))] == [
        *("stem", "layers.0.0", "layers.1.0", "layers.2.0")
    ]


@torch.no_grad()
def test_where_no_blocks_are_found_it_is_said_how_to_name_them():
    one = nn.Module()
    one.first, one.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    hooked = cut_graph(Undecided(one).eval(), 16)
    with pytest.raises(UsageError, match=r"no blocks are found in Undecided.*patterns, such as .*layers\.first"):
        find_taps(hooked, "blocks", ("avg",))
    assert [place.tensor.name for place in find_taps(hooked, "layers.*", ("avg",))] == ["layers.first", "layers.second"]

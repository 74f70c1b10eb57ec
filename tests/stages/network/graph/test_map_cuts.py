import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.map_cuts import MOST_PROBED, default_map_cuts, map_cuts_to_probe, stride_of


class Even(nn.Module):
    """Blocks whose maps stay as large as the image, or a part of it."""

    def __init__(self, count, stride=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, stride, stride)
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)) for _ in range(count)]
        )
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("efficientnet_lite0", ("blocks.2", "blocks.4", "blocks.6")), ("resnet18", ("layer2", "layer3", "layer4"))],
)
def test_the_last_block_of_each_stride_is_taken_and_no_convolution_alone(name, blocks):
    graph = CutGraph(load_backbone(name, "none").module.eval(), 96)
    cuts = default_map_cuts(graph)
    assert cuts == [graph.resolve(block) for block in blocks]
    assert [stride_of(graph, cut) for cut in cuts] == [8, 16, 32]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("deeplabv3_mobilenet_v3_large", ["backbone.6", "backbone.15"]),
        ("fcn_resnet50", ["backbone.layer4"]),  # dilated: nothing is coarser than a stride of 8
        ("lraspp_mobilenet_v3_large", ["backbone.6", "backbone.15"]),
    ],
)
def test_what_a_segmentation_network_says_is_no_map_for_other_heads(name, blocks):
    graph = CutGraph(load_backbone(name, "none").module.eval(), 64)
    assert default_map_cuts(graph) == [graph.resolve(block) for block in blocks]
    assert not [cut.name for cut in map_cuts_to_probe(graph) if cut.name.startswith("classifier")]


def test_of_maps_of_one_size_those_at_a_third_two_thirds_and_the_end_are_taken():
    graph = CutGraph(Even(6).eval(), 16)
    assert default_map_cuts(graph) == [graph.resolve(f"blocks.{place}") for place in (1, 3, 5)]


def test_a_network_without_maps_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UsageError, match="`cut` maps"):
        default_map_cuts(CutGraph(network.eval(), 8))


def test_nothing_finer_than_a_stride_of_4_is_probed():
    graph = CutGraph(load_backbone("efficientnet_lite0", "none").module.eval(), 96)
    cuts = map_cuts_to_probe(graph)
    assert [stride_of(graph, cut) for cut in cuts] == [4, 8, 16, 16, 32, 32]
    assert cuts == [graph.resolve(f"blocks.{place}") for place in range(1, 7)]


def test_where_all_maps_are_finer_the_last_is_probed():
    graph = CutGraph(Even(6).eval(), 16)
    assert map_cuts_to_probe(graph) == [graph.resolve("blocks.5")]


@pytest.mark.parametrize(
    ("blocks", "places"),
    [(12, range(12)), (13, (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12)), (34, range(0, 34, 3))],
)
def test_of_many_blocks_twelve_are_probed_evenly_spread_with_the_first_and_the_last(blocks, places):
    graph = CutGraph(Even(blocks, stride=4).eval(), 16)
    cuts = map_cuts_to_probe(graph)
    assert cuts == [graph.resolve(f"blocks.{place}") for place in places]
    assert len(cuts) == MOST_PROBED

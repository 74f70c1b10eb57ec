import pytest
import torch
from torch import nn

from cache.errors import UsageError
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.map_cuts import default_map_cuts, stride_of


class Even(nn.Module):
    """Blocks whose maps stay as large as the image."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)) for _ in range(count)]
        )
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("efficientnet_lite0", ("blocks.2", "blocks.4", "blocks.6")), ("resnet18", ("layer2", "layer3", "layer4"))],
)
def test_the_last_block_of_each_stride_is_taken_and_no_convolution_alone(name, blocks):
    graph = CutGraph(load_backbone(name, "none").module.eval(), 96)
    cuts = default_map_cuts(graph)
    assert cuts == [graph.resolve(block) for block in blocks]
    assert [stride_of(graph, cut) for cut in cuts] == [8, 16, 32]


def test_of_maps_of_one_size_those_at_a_third_two_thirds_and_the_end_are_taken():
    graph = CutGraph(Even(6).eval(), 16)
    assert default_map_cuts(graph) == [graph.resolve(f"blocks.{place}") for place in (1, 3, 5)]


def test_a_network_without_maps_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(UsageError, match="`cut` maps"):
        default_map_cuts(CutGraph(network.eval(), 8))

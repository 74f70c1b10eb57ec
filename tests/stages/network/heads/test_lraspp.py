import torch

from stages.network.heads.registry import build_head
from stages.network.map_layout import MapLayout

LAYOUT = MapLayout(((8, 12, 15), (16, 6, 8), (24, 3, 4)))


def test_the_light_head_is_as_large_as_it_is_said_to_be():
    layout = MapLayout(((40, 45, 60), (112, 23, 30), (320, 12, 15)))
    head = build_head("lraspp", (layout.width,), 11, {"maps": layout.to_json()})
    assert sum(parameter.numel() for parameter in head.parameters()) == 274_939


def test_the_light_head_gates_by_the_deepest_map():
    head = build_head("lraspp", (LAYOUT.width,), 5, {"maps": LAYOUT.to_json()}).eval()
    rows = torch.randn(2, LAYOUT.width)
    changed = rows.clone()
    changed[:, LAYOUT.sizes[0] + LAYOUT.sizes[1] :] = 0
    assert not torch.equal(head(rows), head(changed))
    with torch.no_grad():
        head.gate.bias.fill_(-1e9)  # nothing comes through
    assert torch.equal(head(rows), head(changed))

"""T2: the table of layers."""

from stages.network.layers import layer_table

from .networks import graph


def test_table_has_a_row_for_every_cut_with_its_costs():
    found = graph("resnet18")
    rows = {row["name"]: row for row in layer_table(found)}
    assert [*rows] == [cut.name for cut in found.cuts]
    assert rows["layer3.1.relu_1"] == {
        "name": "layer3.1.relu_1",
        "alias": "layer3",
        "shape": (256, 4, 4),
        "layout": "nchw",
        "parameters_below": 2_782_784,
        "parameters_above": 11_689_512 - 2_782_784,
        "multiply_adds_below": rows["layer3.1.add"]["multiply_adds_below"],
        "multiply_adds_above": rows["fc"]["multiply_adds_below"] - rows["layer3.1.add"]["multiply_adds_below"],
        "bytes_per_image": 2 * 256 * 4 * 4,
    }
    assert rows["fc"]["parameters_below"] == sum(parameter.numel() for parameter in found.module.parameters())

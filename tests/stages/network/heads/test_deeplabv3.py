from stages.network.heads.deeplabv3 import scaled_rates
from stages.network.map_layout import MapLayout
from tests.stages.network.heads.test_map_head import head_for


def test_rates_of_deeplab_are_scaled_to_the_map_and_kept():
    assert scaled_rates((112, 23, 30)) == (3, 6, 9)
    assert scaled_rates((320, 3, 4)) == (1, 2, 3)
    head = head_for("deeplabv3", MapLayout(((8, 24, 32),)))
    assert head.config["rates"] == [3, 6, 9]
    assert head.head[0].convs[1][0].dilation == (3, 3)

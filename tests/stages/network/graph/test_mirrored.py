import pytest
import torch
from torch import nn

from stages.network.graph.mirrored import LooksTrunk, MirroredTrunk, columns_of_look

WIDTH = 5


class TwoTaps(nn.Module):
    """Rows of two taps, 2 and 3 numbers, that a mirror image has otherwise; it counts its passes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.passes = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 3, 3), 0

    def forward(self, images):
        self.passes += 1
        return tuple(tap(images)[..., 0, 0] for tap in (self.first, self.second))


@pytest.mark.parametrize("looks", [(False, True), (True, False), (True, True, False), (False,), (False, False)])
def test_each_look_stands_where_its_columns_are_said_to_be_after_one_pass_over_each_of_the_two(looks):
    trunk, images = TwoTaps(), torch.rand(4, 3, 6, 6)
    with torch.inference_mode():
        rows = {True: torch.cat(MirroredTrunk(trunk)(images), dim=1), False: torch.cat(trunk(images), dim=1)}
        assert not torch.allclose(rows[True], rows[False])
        trunk.passes = 0
        (joined,) = LooksTrunk(trunk, looks)(images)
    assert trunk.passes == (2 if any(looks) else 1)
    assert joined.shape == (4, WIDTH * len(looks))
    for number, mirrored in enumerate(looks):
        torch.testing.assert_close(joined[:, columns_of_look(number, WIDTH)], rows[mirrored])

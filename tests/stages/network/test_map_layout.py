import pytest
import torch

from cache.errors import UsageError
from stages.network.graph.cuts import Cut
from stages.network.map_layout import MapLayout


def cut(shape, layout, prefix=0):
    return Cut("block", "", shape, layout, 0, 0, 0, 0, prefix_tokens=prefix, class_token=prefix > 0)


def test_maps_come_out_of_a_row_as_they_went_in():
    maps = [torch.randn(2, *shape) for shape in ((3, 4, 6), (5, 2, 3))]
    layout = MapLayout(((3, 4, 6), (5, 2, 3)))
    rows = torch.cat([part.flatten(1) for part in maps], dim=1)
    assert rows.shape[1] == layout.width
    assert all(torch.equal(got, put) for got, put in zip(layout.split(rows), maps, strict=True))
    assert layout.finest == (4, 6)
    assert torch.allclose(layout.vectors(rows), torch.cat([part.mean(dim=(2, 3)) for part in maps], dim=1))


def test_channels_last_and_tokens_become_maps_without_what_belongs_to_no_place():
    image = torch.randn(2, 5, 2, 3)
    places = image.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.full((2, 1, 5), 9.0), places.flatten(1, 2)], dim=1)
    layout = MapLayout.of_cuts([cut((2, 3, 5), "nhwc"), cut((7, 5), "tokens", prefix=1)], (32, 48))
    assert layout.shapes == ((5, 2, 3), (5, 2, 3))
    rows = torch.cat([places.flatten(1), tokens.flatten(1)], dim=1)
    assert all(torch.equal(part, image) for part in layout.split(rows))


def test_one_map_may_keep_its_shape():
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(MapLayout(((3, 4, 5),)).split(maps)[0], maps)


def test_the_middle_map_is_that_of_the_middle_depth():
    assert MapLayout(((1, 8, 8), (1, 4, 4), (1, 2, 2))).middle == 1
    assert MapLayout(((1, 2, 2), (1, 8, 8))).middle == 0
    assert MapLayout(((1, 8, 8),)).middle == 0


def test_a_layout_comes_back_from_json():
    layout = MapLayout.of_cuts([cut((7, 5), "tokens", prefix=1), cut((5, 3, 4), "nchw")], (32, 48))
    assert MapLayout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("refused", [cut((1280,), "vector"), cut((8, 5), "tokens", prefix=1)])
def test_what_has_no_places_is_refused_by_its_name(refused):
    with pytest.raises(UsageError, match="`cut` block gives"):
        MapLayout.of_cuts([refused], (32, 48))

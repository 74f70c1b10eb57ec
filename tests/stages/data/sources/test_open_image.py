import pytest
import torch

from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import read_file, read_image
from stages.data.sources.tiles import tile_location
from stages.tasks.tiles import Box
from tests.stages.data.masks.pictures import save_pair


def test_a_location_is_a_file_a_sample_of_a_source_or_a_tile_of_one(tmp_path):
    save_pair(tmp_path / "a.png", None, 0)
    whole = read_image(str(tmp_path / "a.png"))
    assert whole.shape == (3, 12, 16)
    tile = read_image(tile_location(str(tmp_path / "a.png"), Box(2, 4, 6, 8)))
    assert torch.equal(tile, whole[:, 2:8, 4:12])
    assert read_image("digits:3").shape[0] == 3


def test_what_is_no_file_is_told_from_what_is_not_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, reason in (
        (".", "a folder"),
        ("gone.png", "no such file"),
        ("link", "a link to a file that does not exist"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            read_file(str(tmp_path / name))
    with pytest.raises(UnreadableImageError, match=r"gone\.png: no such file"):
        read_image(str(tmp_path / "gone.png"))

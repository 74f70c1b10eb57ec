"""A tile of an image is read, named and keyed as an image of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.images.reading import PLAIN, Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources import open_image
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.open_image import read_image
from stages.data.sources.tiles import tile_key, tile_location, tiles_of
from stages.tasks.tiles import Box, Tiling, split_name

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a:b, 1.png"
    Image.fromarray(PIXELS).save(path)
    return str(path)


def test_tiles_are_the_pixels_of_their_image_and_beyond_it_its_edge(file):
    whole = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for name in (file, InMemoryImage("memory", PIXELS)):
        for location, _, box in tiles_of(Tiling(16, 16, 4), name, "k", (21, 30)):
            expected = whole[:, box.top : box.top + 16, box.left : box.left + 16]
            assert torch.equal(read_image(location), expected)
        beyond = read_image(tile_location(name, Box(0, 0, 24, 32)))
        assert torch.equal(beyond[:, :21, :30], whole)
        assert torch.equal(beyond[:, 23, :30], whole[:, 20])
        assert torch.equal(beyond[:, :21, 31], whole[:, :, 29])


def test_a_location_says_which_tile_of_which_image_it_is(file):
    box = Box(3, 0, 16, 20)
    assert split_name(tile_location(file, box)) == (file, box)
    assert split_name(file) is None


def test_tiles_have_keys_of_their_own_and_an_image_of_a_tiles_size_keeps_its_own(file):
    tiles = tiles_of(Tiling(16, 16, 4), file, "k", (21, 30))
    keys = {key for _, key, _ in tiles}
    assert len(keys) == len(tiles) == 6
    assert all(len(key) == 32 for key in keys)
    assert tile_key("k", Box(0, 0, 16, 16)) != tile_key("other", Box(0, 0, 16, 16))
    assert tiles_of(Tiling(21, 30, 4), file, "k", (21, 30)) == [(file, "k", Box(0, 0, 21, 30))]


def test_an_image_is_decoded_once_for_tiles_that_follow_each_other(file, monkeypatch):
    reads = []
    monkeypatch.setattr(open_image, "read_file", lambda name: reads.append(name) or Path(file).read_bytes())
    for reading in (PLAIN, Reading(channels=(0, 1, 2)), Reading(shorter_side=4)):
        for location, *_ in tiles_of(Tiling(16, 16, 4), f"{file}{reading}", "k", (21, 30)):
            read_image(location, reading)
    assert len(reads) == 3


def test_of_a_tile_that_cannot_be_read_the_image_is_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"none\.png: no such file"):
        read_image(tile_location(str(tmp_path / "none.png"), Box(0, 0, 4, 4)))

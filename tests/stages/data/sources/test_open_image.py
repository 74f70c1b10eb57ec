import os

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.open_image import read_file, read_image
from stages.data.sources.tiles import tile_location
from stages.tasks.tiles import Box


def test_a_file_an_image_in_memory_a_packaged_one_and_a_tile_become_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    file = str(tmp_path / "one.png")
    Image.fromarray(pixels).save(file)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(read_image(file), expected)
    assert read_image("digits:17").shape == (3, 8, 8)
    assert torch.equal(read_image(tile_location(file, Box(2, 4, 8, 12))), expected[:, 2:10, 4:16])
    in_memory = InMemoryImage("named", expected)
    assert torch.equal(read_image(in_memory), expected)


def test_what_is_no_file_to_read_is_said(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("gone", "no such file"),
        ("link", "a link to a file that does not exist"),
        ("pipe", "not a regular file"),
        ("", "a folder, not a file"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            read_file(str(tmp_path / name))

"""Tiles cover every pixel, overlap as much as was asked for, and what was cut comes together again to the pixel."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cache.errors import UsageError
from stages.tasks import tiles
from stages.tasks.tiles import Box, Tiling, merge_tiles, most_probable


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.99))
def test_tiles_cover_an_image_and_overlap_at_least_so_much(height, width, tile_height, tile_width, share):
    tiling = Tiling(tile_height, tile_width, int(share * min(tile_height, tile_width)))
    covered = np.zeros((height, width), int)
    for box in tiling.boxes(height, width):
        covered[box.top : box.top + box.height, box.left : box.left + box.width] += 1
        assert box.top == 0 or box.top + box.height <= height
        assert box.left == 0 or box.left + box.width <= width
    assert covered.all()
    for side, tile, starts in (
        (height, tile_height, sorted({box.top for box in tiling.boxes(height, width)})),
        (width, tile_width, sorted({box.left for box in tiling.boxes(height, width)})),
    ):
        assert all(first + tile - second >= tiling.overlap for first, second in pairwise(starts))
        # one tile fewer would not reach so far
        assert len(starts) == 1 or tile + (len(starts) - 2) * (tile - tiling.overlap) < side


def test_what_was_cut_comes_together_again_to_the_pixel():
    image = torch.rand(3, 37, 51)
    for tiling in (Tiling(16, 20, 4), Tiling(64, 64, 0), Tiling(37, 51, 8), Tiling(16, 80, 15)):
        boxes = tiling.boxes(37, 51)
        padded = F.pad(image, (0, 80, 0, 80))
        cut = torch.stack([padded[:, b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes])
        torch.testing.assert_close(merge_tiles(cut, boxes, (37, 51)), image)
        assert torch.equal(most_probable(cut, boxes, (37, 51)), image.argmax(0).to(torch.uint8))


def test_where_tiles_overlap_their_logits_are_averaged():
    logits = torch.tensor([1.0, 3.0])[:, None, None, None].expand(2, 1, 1, 2)
    merged = merge_tiles(logits, [Box(0, 0, 2, 4), Box(0, 2, 2, 4)], (2, 6))
    assert merged[0].tolist() == [[1, 1, 2, 2, 3, 3]] * 2


def test_a_map_of_one_tile_is_brought_to_the_size_of_the_image_as_torch_does_it():
    logits = torch.randn(1, 5, 7, 9)
    expected = F.interpolate(logits, (50, 61), mode="bilinear", align_corners=False)[0]
    assert torch.equal(merge_tiles(logits, [Box(0, 0, 50, 61)], (50, 61)), expected)


def test_classes_in_parts_are_those_of_all_at_once(monkeypatch):
    logits = torch.randn(4, 11, 5, 5).round()  # with logits that are equal
    boxes = Tiling(20, 20, 3).boxes(30, 33)
    whole = merge_tiles(logits, boxes, (30, 33)).argmax(0)
    monkeypatch.setattr(tiles, "_VALUES_AT_ONCE", 3 * 30 * 33)
    assert torch.equal(most_probable(logits, boxes, (30, 33)).long(), whole)


@pytest.mark.parametrize("overlap", [-1, 16, 20])
def test_tiles_that_would_get_nowhere_are_refused(overlap):
    with pytest.raises(UsageError, match=r"`overlap` .* from 0 to less than the shorter side of a tile, which is 16"):
        Tiling(16, 20, overlap)

"""The row of taps: where its blocks stand, and which sets of them there are."""

import json

import pytest

from cache.errors import CacheInputError, UsageError
from stages.network.graph.taps import TapBlock, TapLayout

LAYOUT = TapLayout(
    (
        TapBlock("stem", "avg", "stage", 4),
        TapBlock("a.0.act", "avg", "inner", 12),
        TapBlock("a.0", "avg", "block", 2),
        TapBlock("a.0", "max", "block", 2),
        TapBlock("a.1", "avg", "stage", 3),
        TapBlock("pool", "none", "last", 5),
    )
)


def test_blocks_stand_one_after_the_other():
    assert LAYOUT.width == 28
    assert [*LAYOUT.slices] == ["stem:avg", "a.0.act:avg", "a.0:avg", "a.0:max", "a.1:avg", "pool:none"]
    assert [(part.start, part.stop) for part in LAYOUT.slices.values()] == [
        *((0, 4), (4, 16), (16, 18), (18, 20), (20, 23), (23, 28))
    ]


def test_each_set_of_depths_holds_the_one_before():
    sets = LAYOUT.depth_sets()
    assert [*sets] == ["last", "stages", "blocks", "all"]
    assert sets["last"] == ("pool:none",)
    assert sets["stages"] == ("stem:avg", "a.1:avg", "pool:none")
    assert sets["blocks"] == ("stem:avg", "a.0:avg", "a.0:max", "a.1:avg", "pool:none")
    assert sets["all"] == tuple(LAYOUT.slices)


def test_equal_and_empty_sets_are_left_out():
    only_stages = LAYOUT.select(LAYOUT.depth_sets()["stages"])
    assert [*only_stages.depth_sets()] == ["last", "stages"]
    assert [*LAYOUT.select(["a.0:max", "a.0.act:avg"]).depth_sets()] == ["blocks", "all"]


def test_blocks_that_are_selected_keep_the_order_of_the_row():
    assert [block.name for block in LAYOUT.select(["pool:none", "stem:avg"]).blocks] == ["stem:avg", "pool:none"]
    with pytest.raises(UsageError, match=r"no block 'a.0:min'.*a\.0:m"):
        LAYOUT.select(["a.0:min"])


def test_a_layout_comes_back_from_json():
    assert TapLayout.from_json(json.loads(json.dumps(LAYOUT.to_json()))) == LAYOUT
    with pytest.raises(CacheInputError, match="layout of taps"):
        TapLayout.from_json([{"place": "a"}])
    with pytest.raises(CacheInputError, match="one of last, stage, block, inner"):
        TapLayout.from_json([{"place": "a", "pool": "avg", "kind": "side", "width": 1}])

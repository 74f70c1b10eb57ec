from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.row_index import RowIndex, pack_key_list, pack_keys, unpack_key

# Few different halves, so that keys often share one: a hostile writer can make them collide.
halves = st.sampled_from([0, 1, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A, 2**64 - 1]) | st.integers(0, 2**64 - 1)
keys = st.builds("{:016x}{:016x}".format, halves, halves)
tables = st.lists(st.lists(st.tuples(keys, st.integers(0, 3)), max_size=12), max_size=5)


@settings(deadline=None)
@given(first=tables, later=tables, asked=st.lists(keys, max_size=10), view=st.integers(0, 3))
def test_a_lookup_finds_what_a_dict_finds(first, later, asked, view):
    expected: dict[tuple[str, int], tuple[int, int]] = {}
    lookup = RowIndex.empty()
    for start, batch in ((0, first), (len(first), later)):
        packed = [
            (pack_key_list([key for key, _ in table]), np.array([v for _, v in table], np.int32)) for table in batch
        ]
        if packed:
            lookup = lookup.merged(packed, start)
        for shard, table in enumerate(batch, start):
            for row, entry in enumerate(table):
                expected.setdefault(entry, (shard, row))
    assert len(lookup.mixed_high) == len(expected)
    asked = [*asked, *(key for key, _ in expected)]
    positions = lookup.positions_of(pack_key_list(asked), view)
    addresses = [
        (int(lookup.shards[position]), int(lookup.rows[position])) if position >= 0 else None for position in positions
    ]
    assert addresses == [expected.get((key, view)) for key in asked]
    in_storage_order = sorted((address, key) for (key, row_view), address in expected.items() if row_view == view)
    assert [unpack_key(key) for key in lookup.keys(view)] == [key for _, key in in_storage_order]


@settings(deadline=None)
@given(key=keys)
def test_a_packed_key_unpacks_to_itself(key):
    assert unpack_key(pack_keys(key)[0]) == key


@pytest.mark.parametrize(
    "wrong", ["", "abc", "g" * 32, "a" * 31, "a" * 33, "a" * 31 + " ", "a" * 30 + "\n\n", "é" * 32]
)
def test_what_is_not_a_key_is_named(wrong):
    with pytest.raises(CacheError, match="is not a key") as caught:
        pack_key_list(["0" * 32, wrong, "1" * 32])
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        ["a" * 31, "a" * 33],
        ["a" * 32 + "\n" + "a" * 32, ""],
        ["", "a" * 64],
        ["a" * 15 + "\n" + "a" * 16, "a" * 33],
        ["a" * 32 + "\n"],
    ],
)
def test_wrong_keys_do_not_make_right_ones_together(keys):
    with pytest.raises(CacheError, match="is not a key"):
        pack_key_list(keys)


def test_a_negative_view_is_refused():
    with pytest.raises(CacheError, match="views count from 0"):
        RowIndex.empty().positions_of(pack_key_list(["0" * 32]), -1)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import FeatureCache
from cache.shard import Shard
from tests.cache.conftest import SPEC, features_of, fill, make_keys

KEYS = make_keys(300)


@pytest.fixture(scope="module", params=[(6,), (2, 3, 2)], ids=["vectors", "maps"])
def filled(tmp_path_factory, request) -> tuple[FeatureCache, dict[str, np.ndarray]]:
    cache = FeatureCache(tmp_path_factory.mktemp("gather"), SPEC)
    fill(cache, KEYS, shard_rows=37, shape=request.param)
    return cache, dict(zip(KEYS, features_of(KEYS, request.param), strict=True))


requests = st.lists(st.integers(0, 299), max_size=60) | st.integers(0, 280).map(lambda i: list(range(i, i + 20)))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests, piece=st.sampled_from([1, 100, 1 << 23]), gap=st.sampled_from([0, 48, 1 << 16]))
def test_rows_come_back_in_the_order_asked_whatever_the_pieces_they_are_read_in(filled, request, piece, gap):
    cache, truth = filled
    asked = [KEYS[index] for index in request]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.gather_rows._PIECE_BYTES", piece)
        patch.setattr("cache.gather_rows._GAP_BYTES", gap)
        rows = cache.read(asked)
    assert rows.shape == (len(asked), *cache.row_shape)
    for key, row in zip(asked, rows, strict=True):
        np.testing.assert_array_equal(row, truth[key])


def test_neighbors_are_read_in_one_piece_and_strangers_are_not(filled, monkeypatch):
    cache, _ = filled
    reads = []
    original = Shard.read
    monkeypatch.setattr(Shard, "read", lambda self, start, into: reads.append(len(into)) or original(self, start, into))
    cache.read(KEYS)
    assert len(reads) == len(cache._current().shards)
    reads.clear()
    monkeypatch.setattr("cache.gather_rows._GAP_BYTES", 0)
    cache.read([KEYS[0], KEYS[2], KEYS[3], KEYS[30]])
    assert sorted(reads) == [1, 1, 2]

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import FeatureCache
from cache import gather_rows as gathering
from cache.errors import CacheError
from cache.gather_rows import LEAST_SCRATCH_BYTES
from cache.shard import Shard
from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths

KEYS = make_keys(300)
ROW_BYTES = 24


def allowance(pool_rows: int, batch_rows: int, row_bytes: int = ROW_BYTES) -> int:
    """Return the memory that makes pools of so many rows."""
    return LEAST_SCRATCH_BYTES + 2 * (pool_rows + batch_rows) * row_bytes


def positions(cache: FeatureCache, keys: list[str], batch_rows: int = 16, **options) -> list[int]:
    return [
        int(position)
        for batch in cache.batches(keys, batch_rows, **{"seed": 0, **options})
        for position in batch.positions
    ]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> FeatureCache:
    """A cache of shards of 37 rows, packed and plain; the first 50 rows are there twice, all in two views."""
    cache = FeatureCache(tmp_path_factory.mktemp("batches"), SPEC)
    for view in (0, 3):
        with cache.writer(shard_bytes=74 * ROW_BYTES, compression="gzip" if view else "none") as writer:
            writer.append(KEYS, features_of(KEYS, view=view), view=view)
    fill(cache, KEYS[:50])
    return cache


@pytest.fixture
def small_stretches(monkeypatch):
    """Stretches of a few rows, so that small shards have several."""
    monkeypatch.setattr("cache.shard_layout._CHUNK_BYTES", 2 * ROW_BYTES)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.integers(0, 299), max_size=80) | st.permutations(range(300)),
    batch_rows=st.integers(1, 50),
    pool_batches=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    view=st.sampled_from([0, 3]),
)
def test_every_row_comes_once_and_is_the_right_one(
    filled, small_stretches, asked, batch_rows, pool_batches, seed, view
):
    keys = [KEYS[index] for index in asked]
    memory = allowance(pool_batches * batch_rows, batch_rows)
    batches = list(filled.batches(keys, batch_rows, seed=seed, memory_bytes=memory, view=view))
    assert [len(batch.rows) for batch in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    assert sorted(np.concatenate([batch.positions for batch in batches], dtype=int) if batches else []) == list(
        range(len(keys))
    )
    for batch in batches:
        np.testing.assert_array_equal(
            batch.rows, features_of([keys[position] for position in batch.positions], view=view)
        )


def test_the_order_depends_on_the_seed_and_on_no_timing(filled, small_stretches):
    memory = allowance(64, 16)
    order = positions(filled, KEYS, seed=1, memory_bytes=memory)
    for _ in range(3):
        assert positions(FeatureCache(filled.root, SPEC), KEYS, seed=1, memory_bytes=memory) == order
    assert positions(filled, KEYS, seed=2, memory_bytes=memory) != order


def test_what_fits_into_one_pool_comes_in_a_uniformly_random_order(cache):
    fill(cache, KEYS[:4])
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(positions(cache, KEYS[:4], 2, seed=seed))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_squared < 49.7  # of 23 degrees of freedom: exceeded once in a thousand


def test_a_larger_request_is_mixed_from_all_over_the_cache(filled, small_stretches):
    """Pools of 64 of 300 rows: each batch draws on rows that are stored far apart, and no pool is a run of the cache."""
    order = np.array(positions(filled, KEYS[50:], seed=0, memory_bytes=allowance(64, 16)))
    for start in range(0, 240, 16):
        assert np.ptp(order[start : start + 16]) > 80
    assert abs(np.corrcoef(order, np.arange(250))[0, 1]) < 0.3


def test_rows_are_read_in_stretches_and_not_one_by_one(filled, small_stretches, monkeypatch):
    reads = []
    original = Shard.read
    monkeypatch.setattr(Shard, "read", lambda self, start, into: reads.append(len(into)) or original(self, start, into))
    positions(filled, KEYS[50:], memory_bytes=allowance(64, 16))
    assert sum(reads) < 2 * 250
    assert len(reads) < 250 / 5


def test_the_memory_allowed_is_not_exceeded(cache):
    keys, row = make_keys(4000), 2048
    with cache.writer(shard_bytes=8 << 20) as writer:
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            writer.append(part, np.repeat(features_of(part, (1,)), row, axis=1))
    memory = LEAST_SCRATCH_BYTES + (4 << 20)
    # What reading takes is needed where rows are picked out of others, and not where all are read.
    for asked, most in ((keys, 4 << 20), (sorted(keys), 4 << 20), (keys[::3], memory)):
        tracemalloc.start()
        try:
            for batch in cache.batches(asked, 32, seed=0, memory_bytes=memory):
                np.testing.assert_array_equal(batch.rows[:, 0], batch.rows[:, -1])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(asked) * row * 4 > 2 * (4 << 20)
        assert peak < most + (1 << 18) + 100 * len(asked)


def test_the_next_pool_is_read_while_one_is_served(filled, small_stretches, monkeypatch):
    read_ahead = threading.Event()
    reading = []

    def gather(*arguments):
        damaged = gathering.read_rows(*arguments)
        reading.append(threading.current_thread())
        if len(reading) == 2:
            read_ahead.set()
        return damaged

    monkeypatch.setattr("cache.feature_cache.read_rows", gather)
    batches = filled.batches(KEYS, 16, seed=0, memory_bytes=allowance(64, 16))
    next(batches)
    assert read_ahead.wait(timeout=30)
    assert threading.current_thread() not in reading
    batches.close()
    assert not reading[0].is_alive()


def test_batches_stay_as_they_are_when_the_next_ones_come(filled, small_stretches):
    batches = list(filled.batches(KEYS, 16, seed=0, memory_bytes=allowance(32, 16)))
    for batch in batches:
        np.testing.assert_array_equal(batch.rows, features_of([KEYS[position] for position in batch.positions]))


def test_a_damaged_row_ends_the_pass_and_is_named(cache):
    fill(cache, KEYS[:30])
    path = shard_paths(cache)[1]
    content = bytearray(path.read_bytes())
    [shard] = [shard for shard in cache._current().shards if shard.path == path]
    content[shard.storage.offset + 2 * ROW_BYTES] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=rf"row 2 of {path} \({KEYS[12]}\)"):
        positions(cache, KEYS[:30])


def test_shards_that_are_rewritten_meanwhile_are_followed(cache, small_stretches):
    fill(cache, KEYS)
    batches = cache.batches(KEYS, 16, seed=0, memory_bytes=allowance(32, 16))
    seen = [next(batches)]
    FeatureCache(cache.root, SPEC).prune(KEYS[1:])  # drops one row, which moves its neighbours to another shard
    with FeatureCache(cache.root, SPEC).writer() as writer:
        writer.append(KEYS[:1], features_of(KEYS[:1]))
    seen += batches
    assert sorted(np.concatenate([batch.positions for batch in seen])) == list(range(300))
    for batch in seen:
        np.testing.assert_array_equal(batch.rows, features_of([KEYS[position] for position in batch.positions]))


def test_what_cannot_be_done_is_said_before_anything_is_read(filled, cache):
    with pytest.raises(CacheError, match=r"1 of 2 samples have no features .*extract them first"):
        filled.batches([KEYS[0], make_keys(1, start=5000)[0]], 16, seed=0)
    with pytest.raises(CacheError, match="extract them first"):
        cache.batches([], 16, seed=0)
    with pytest.raises(CacheError, match="at least one row, not 0"):
        filled.batches(KEYS, 0, seed=0)
    with pytest.raises(CacheError, match=rf"batches of 16 rows of 24 bytes; allow at least {allowance(16, 16):,}"):
        filled.batches(KEYS, 16, seed=0, memory_bytes=allowance(16, 16) - 1)
    assert positions(filled, KEYS, memory_bytes=allowance(16, 16))


def test_a_request_of_nothing_has_no_batches(filled):
    assert positions(filled, []) == []


@pytest.mark.parametrize("cores", [1, 64])
def test_what_an_allowance_holds_does_not_hang_on_the_cores(filled, small_stretches, monkeypatch, cores):
    seen = []
    original = gathering.read_rows

    def gather(shards, numbers, rows, out, scratch):
        seen.append((len(out), scratch))
        return original(shards, numbers, rows, out, scratch)

    monkeypatch.setattr("cache.gather_rows._THREADS", min(8, cores))
    monkeypatch.setattr("cache.feature_cache.read_rows", gather)
    assert sorted(positions(filled, KEYS, memory_bytes=64 << 20)) == list(range(300))
    assert sorted(positions(filled, KEYS, memory_bytes=allowance(64, 16))) == list(range(300))
    assert [scratch for _, scratch in seen] == [16 << 20, *[8 << 20] * 5]
    assert [rows for rows, _ in seen] == [300, 64, 64, 64, 64, 44]


def test_as_many_threads_read_as_the_allowance_has_room_for(filled, monkeypatch):
    pools = []
    original = gathering.ThreadPoolExecutor
    monkeypatch.setattr("cache.gather_rows._THREADS", 8)
    monkeypatch.setattr("cache.gather_rows._PIECE_BYTES", 1)
    monkeypatch.setattr("cache.gather_rows.ThreadPoolExecutor", lambda count: pools.append(count) or original(count))
    for memory in (17 << 20, 64 << 20, 1 << 30):
        positions(filled, KEYS, memory_bytes=memory)
    assert pools == [2, 8]

"""Rows of a cache are what rows on a device are, and no more of them are in memory than a block or two."""

import numpy as np
import pytest
import torch

from cache.errors import CacheError
from stages.fitting import feature_rows
from stages.fitting.feature_rows import FeatureRows, StreamedFeatureRows
from stages.fitting.solvers.cached_rows import CachedRows, rows_of_cache
from stages.fitting.solvers.device_rows import DeviceRows
from tests.stages.fitting.stored_rows import streamed

WHOLE = np.arange(700, dtype=np.float16).reshape(100, 7)
CPU = torch.device("cpu")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hundred rows of 14 bytes, of which eight are read at a time."""
    monkeypatch.setattr(feature_rows, "BLOCK_BYTES", 8 * 14)
    (rows,) = streamed(tmp_path, [FeatureRows(WHOLE, np.arange(100) % 3)])
    return rows_of_cache(rows, CPU)


def joined(rows, most):
    found, sizes = np.zeros((len(rows), rows.width), np.float16), []
    for part, block in rows.blocks(most):
        found[part] = block.cpu().numpy()
        sizes.append(len(block))
    return found, sizes


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 100), (5, [5, 3] * 12 + [4]), (1000, [8] * 12 + [4])])
def test_all_rows_come_in_order_a_block_at_a_time(cached, most, sizes):
    assert (len(cached), cached.width, cached.dtype) == (100, 7, torch.float16)
    found, seen = joined(cached, most)
    np.testing.assert_array_equal(found, WHOLE)
    assert seen == sizes


def test_a_slice_stays_in_the_cache_and_chosen_rows_are_held(cached):
    part = cached.at(slice(30, None)).at(slice(2, 40))
    assert isinstance(part, CachedRows)
    np.testing.assert_array_equal(joined(part, 100)[0], WHOLE[32:70])
    places = np.array([37, 0, 1, 37])
    chosen = part.at(places)
    assert isinstance(chosen, DeviceRows)
    np.testing.assert_array_equal(chosen.resident.numpy(), WHOLE[32:70][places])
    np.testing.assert_array_equal(part.sample(places).numpy(), WHOLE[32:70][places])


def test_no_more_is_read_ahead_than_the_next_block(cached, monkeypatch):
    read, original = [], StreamedFeatureRows.read

    def counted(rows, indices):
        read.append(len(indices))
        return original(rows, indices)

    monkeypatch.setattr(StreamedFeatureRows, "read", counted)
    blocks = cached.blocks(100)
    next(blocks)
    next(blocks)
    blocks.close()
    assert read in ([8, 8], [8, 8, 8])


def test_few_rows_are_held_where_little_memory_is_allowed(cached):
    assert cached.most_held == (64 << 20) // 2 // 14
    small = StreamedFeatureRows(cached.rows.stores, cached.rows.keys, cached.rows.labels, 14 * 20)
    rows = rows_of_cache(small, CPU)
    assert (rows.most_held, rows.solver_bytes) == (10, 280)
    assert joined(rows, 100)[1] == [2] * 50  # an eighth of what is allowed at a time


def test_damage_on_the_disk_is_told_in_the_midst_of_a_pass(cached):
    (shard,) = [path for path in cached.rows.stores[0].path.rglob("*.h5") if "shard" in str(path)]
    data = bytearray(shard.read_bytes())
    at = data.index(WHOLE[50].tobytes())
    data[at] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        joined(cached, 100)


@pytest.mark.parametrize("room", [10_000, 100])
def test_an_accelerator_holds_them_where_it_has_room(cached, gpu, monkeypatch, room):
    monkeypatch.setattr("stages.fitting.solvers.cached_rows.free_memory", lambda _: room)
    rows = rows_of_cache(cached.rows, torch.device("cuda"))
    assert isinstance(rows, DeviceRows if room > 2 * 1400 else CachedRows)
    np.testing.assert_array_equal(joined(rows, 100)[0], WHOLE)
    assert all(block.device.type == "cuda" for _, block in rows.blocks(9))
    assert rows.sample(np.array([3, 4])).device.type == "cuda"

"""Packed rows: read past HDF5, any stretch of them, and distrusted like plain ones."""

from __future__ import annotations

import shutil
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import FeatureCache, Spec
from cache.errors import BrokenShardError, UsageError
from cache.shard import RowBatch, Shard, encode_shard, open_shard
from cache.shard_layout import DeflatedChunks, Hdf5Filtered
from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths

FIXTURES = Path(__file__).parent / "fixtures"
KEYS = make_keys(20)
ROW = 16384
"""Numbers of a row: 64 KiB, so that four are packed together."""


def features() -> np.ndarray:
    """Return rows that are mostly zeros, as after a ReLU."""
    return np.maximum(features_of(KEYS, (ROW,)) - 2, 0)


@pytest.fixture(scope="module")
def image() -> bytes:
    return encode_shard(
        SPEC, [RowBatch(KEYS[:7], 0, features()[:7]), RowBatch(KEYS[7:], 0, features()[7:])], 1.0, "gzip"
    )


@pytest.fixture
def path(tmp_path: Path, image: bytes) -> Path:
    path = tmp_path / "shard.h5"
    path.write_bytes(image)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory, image) -> Shard:
    path = tmp_path_factory.mktemp("packed") / "shard.h5"
    path.write_bytes(image)
    return open_shard(path, SPEC)[0]


def chunks(path: Path) -> list:
    infos: list = []
    with h5py.File(path) as file:
        file["features"].id.chunk_iter(infos.append)
    return infos


def test_a_packed_shard_is_smaller_and_any_hdf5_tool_reads_it(path):
    plain = encode_shard(SPEC, [RowBatch(KEYS, 0, features())], 1.0)
    assert path.stat().st_size < len(plain) / 5
    with h5py.File(path) as file:
        assert (file["features"].compression, file["features"].shuffle) == ("gzip", False)
        np.testing.assert_array_equal(file["features"][()], features())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 19), count=st.integers(1, 20))
def test_any_stretch_of_packed_rows_is_read_past_hdf5(packed, monkeypatch, start, count):
    assert isinstance(packed.storage, DeflatedChunks)
    assert (packed.compression, packed.storage.chunk_rows) == ("gzip", 4)
    monkeypatch.setattr("cache.shard_layout.h5py.File", lambda *_, **__: pytest.fail("HDF5 was asked"))
    into = np.empty((min(count, 20 - start), ROW * 4), np.uint8)
    assert not len(packed.read(start, into))
    np.testing.assert_array_equal(into.view(np.float32), features()[start : start + count])


def test_a_packed_cache_is_read_in_any_order_beside_plain_shards(cache):
    with cache.writer(shard_bytes=12 * ROW * 4, compression="gzip") as writer:
        writer.append(KEYS[:15], features()[:15])
    with cache.writer() as writer:
        writer.append(KEYS[15:], features()[15:])
    assert {shard.compression for shard in cache._current().shards} == {"gzip", "none"}
    order = np.random.default_rng(0).permutation(20)[:17].tolist()
    np.testing.assert_array_equal(cache.read([KEYS[index] for index in order]), features()[order])
    np.testing.assert_array_equal(cache.read(KEYS), features())
    with h5py.File(cache.path / "index.h5") as file:
        assert sorted(row.tobytes() for row in file["features"]) == sorted(row.tobytes() for row in features())


def test_rows_packed_together_are_unpacked_once(cache, monkeypatch):
    with cache.writer(compression="gzip") as writer:
        writer.append(KEYS, features())
    unpacked = []
    original = zlib.decompressobj
    monkeypatch.setattr("cache.deflate.zlib.decompressobj", lambda: unpacked.append(1) or original())
    monkeypatch.setattr("cache.gather_rows._GAP_BYTES", 0)
    cache.read([KEYS[index] for index in (9, 2, 11, 8, 0)])
    assert len(unpacked) == 2


def test_a_flipped_byte_in_a_packed_chunk_costs_its_rows_only_and_is_never_served(path, image):
    generator = np.random.default_rng(0)
    truth = features()
    for chunk in chunks(path):
        first = chunk.chunk_offset[0]
        for position in generator.integers(0, chunk.size, 15):
            content = bytearray(image)
            content[chunk.byte_offset + position] ^= 1 << generator.integers(8)
            path.write_bytes(content)
            [(_, stretch, damaged)] = open_shard(path, SPEC)[0].stretches()
            assert set(damaged.tolist()) <= set(range(first, first + 4))
            sound = np.delete(np.arange(20), damaged)
            np.testing.assert_array_equal(stretch.view(np.float32)[sound], truth[sound])


def test_rows_that_could_not_be_unpacked_are_damaged_whatever_was_in_the_array_before(path):
    content = bytearray(path.read_bytes())
    chunk = chunks(path)[1]
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    into = features().view(np.uint8).copy()  # the very rows
    assert open_shard(path, SPEC)[0].read(0, into).tolist() == [4, 5, 6, 7]


def test_a_damaged_chunk_is_repaired_by_extracting_its_rows_again(cache):
    with cache.writer(compression="gzip") as writer:
        writer.append(KEYS, features())
    [path] = shard_paths(cache)
    content = bytearray(path.read_bytes())
    chunk = chunks(path)[2]
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    reopened = FeatureCache(cache.root, cache.spec)
    assert sorted(damage.row for damage in reopened.repair()) == [8, 9, 10, 11]
    assert reopened.missing(KEYS) == KEYS[8:12]
    assert [shard.compression for shard in reopened._current().shards] == ["gzip"]


def test_a_chunk_that_unpacks_to_gigabytes_takes_no_more_memory_than_it_should(path):
    bomb = zlib.compress(bytes(1 << 26), 1)
    with h5py.File(path, "a") as file:
        file["features"].id.write_direct_chunk((4, 0), bomb)
    shard, _ = open_shard(path, SPEC)
    into = np.empty((20, ROW * 4), np.uint8)
    tracemalloc.start()
    try:
        damaged = shard.read(0, into)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert damaged.tolist() == [4, 5, 6, 7]


def test_chunks_outside_the_file_are_refused(path):
    """In a file as old HDF5 libraries write it, whose chunk index has no checksum."""
    with h5py.File(path) as source, h5py.File(path.with_suffix(".old"), "w", libver="earliest") as file:
        file.attrs.update(source.attrs)
        for name, dataset in source.items():
            packing = {"chunks": dataset.chunks, "compression": dataset.compression}
            file.create_dataset(name, data=dataset[()], **packing).attrs.update(dataset.attrs)
    [chunk, *_] = chunks(path.with_suffix(".old"))
    content = path.with_suffix(".old").read_bytes()
    assert content.count(chunk.byte_offset.to_bytes(8, "little")) == 1
    path.write_bytes(content)
    assert isinstance(open_shard(path, SPEC)[0].storage, DeflatedChunks)
    far = (len(content) - chunk.size + 1).to_bytes(8, "little")
    path.write_bytes(content.replace(chunk.byte_offset.to_bytes(8, "little"), far))
    with pytest.raises(BrokenShardError, match="end outside the file"):
        open_shard(path, SPEC)


def test_a_chunk_that_was_stored_as_it_is_goes_through_hdf5(path):
    with h5py.File(path, "a") as file:
        file["features"].id.write_direct_chunk((4, 0), features()[4:8].tobytes(), filter_mask=1)
    shard, _ = open_shard(path, SPEC)
    assert isinstance(shard.storage, Hdf5Filtered)
    [(_, stretch, damaged)] = shard.stretches()
    assert not len(damaged)
    np.testing.assert_array_equal(stretch.view(np.float32), features())


def test_rows_that_do_not_get_smaller_are_stored_all_the_same(cache):
    keys, noise = make_keys(3), np.frombuffer(np.random.default_rng(0).bytes(3 * 40_000), "<u4").reshape(3, -1)
    rows = (noise & 0xBFFFFFFF).view(np.float32)  # no infinity, no NaN
    with cache.writer(compression="gzip") as writer:
        writer.append(keys, rows)
    np.testing.assert_array_equal(cache.read(keys), rows)


def test_rows_are_packed_as_well_when_the_cache_holds_few_of_them(cache):
    with cache.writer(compression="gzip") as writer:
        writer.append(KEYS[:1], features_of(KEYS[:1]))
    np.testing.assert_array_equal(cache.read(KEYS[:1]), features_of(KEYS[:1]))
    fill(cache, KEYS[1:])
    np.testing.assert_array_equal(cache.read(KEYS), features_of(KEYS))


def test_a_cache_is_rewritten_as_what_packed_it(cache):
    for compression in ("none", "gzip"):
        with cache.writer(compression=compression) as writer:
            writer.append(
                KEYS[: 10 if compression == "none" else 20], features()[: 10 if compression == "none" else 20]
            )
    cache.prune(KEYS[5:])
    assert {shard.compression for shard in cache._current().shards} == {"gzip"}
    np.testing.assert_array_equal(cache.read(KEYS[5:]), features()[5:])


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        ("gzp", "`compression` gzp: there is no such cache format. Did you mean 'gzip'. There are none, gzip"),
        ("hdf5-filters", "`compression` hdf5-filters is only read, never written; choose from none, gzip"),
    ],
)
def test_what_no_rows_can_be_stored_as_is_refused_before_any_is_appended(cache, compression, message):
    with pytest.raises(UsageError, match=message):
        cache.writer(compression=compression)


def test_packed_shards_made_by_version_1_are_read(tmp_path):
    """The fixture was written once and must never be written again: later versions have to read it as it is."""
    shutil.copytree(FIXTURES / "version-1-gzip", tmp_path / "caches")
    cache = FeatureCache(tmp_path / "caches", Spec.from_json({**SPEC.to_json(), "dtype": "float16"}))
    rows = np.maximum(features_of(KEYS, (ROW,)) - 2.5, 0).astype(np.float16)
    np.testing.assert_array_equal(cache.read(KEYS[::-1]), rows[::-1])
    assert (cache.verify(), cache.warnings, cache._current().shards[0].compression) == ([], [], "gzip")

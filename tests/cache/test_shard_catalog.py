from __future__ import annotations

import numpy as np
import pytest

from cache import FeatureCache
from cache.errors import CacheError
from cache.shard import RowBatch, encode_shard
from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths
from tests.cache.processes import in_process

KEYS = make_keys(30)


@pytest.mark.parametrize("length", [0, 200, -50], ids=["empty", "torn", "short"])
def test_a_broken_shard_is_moved_aside_told_and_redone(cache, length):
    fill(cache, KEYS)
    path = shard_paths(cache)[1]
    path.write_bytes(path.read_bytes()[:length])
    reopened = FeatureCache(cache.root, cache.spec)
    lost = reopened.missing(KEYS)
    assert len(lost) == 10
    assert [path.name for path in (cache.path / "damaged").iterdir()] == [path.name]
    assert len(reopened.warnings) == 1
    assert str(path) in reopened.warnings[0]
    assert "moved to" in reopened.warnings[0]
    fill(reopened, lost)
    np.testing.assert_array_equal(reopened.read(KEYS), features_of(KEYS))
    assert FeatureCache(cache.root, cache.spec).warnings == []


def test_a_broken_shard_of_a_read_only_cache_is_ignored_told_and_not_tried_again(read_only_folder, monkeypatch):
    folder, become_reader = read_only_folder
    cache = FeatureCache(folder / "caches", SPEC)
    fill(cache, KEYS)
    path = shard_paths(cache)[0]
    path.write_bytes(b"")

    def read():
        become_reader()
        reader = FeatureCache(cache.root, SPEC)
        missing = reader.missing(KEYS)
        rows = reader.read([key for key in KEYS if key not in missing])
        monkeypatch.setattr(
            "cache.shard_catalog.open_shard", lambda path, spec: pytest.fail(f"{path} was opened again")
        )
        reader.refresh()
        return missing, rows, reader.warnings

    missing, rows, notes = in_process(read)
    assert len(missing) == 10
    np.testing.assert_array_equal(rows, features_of([key for key in KEYS if key not in missing]))
    assert len(notes) == 1
    assert "read-only" in notes[0]
    assert path.exists()


def test_a_cache_is_found_again_after_it_was_moved_as_a_whole(cache, tmp_path):
    fill(cache, KEYS)
    cache.root.rename(tmp_path / "moved")
    np.testing.assert_array_equal(FeatureCache(tmp_path / "moved", SPEC).read(KEYS), features_of(KEYS))


def test_shards_that_vanish_are_missed(cache):
    fill(cache, KEYS)
    assert not cache.missing(KEYS)
    shard_paths(cache)[0].unlink()
    assert len(cache.missing(KEYS)) == 10


def test_two_shards_that_cannot_be_of_one_cache_are_both_named(cache):
    fill(cache, KEYS)
    other = make_keys(1, start=100)
    path = cache.path / "shards" / "zzz.h5"
    path.write_bytes(encode_shard(SPEC, [RowBatch(other, 0, features_of(other, (7,)))], 0.0))
    with pytest.raises(CacheError, match=r"zzz\.h5 holds rows of the shape \(7,\)") as caught:
        cache.missing(KEYS)
    assert shard_paths(cache)[0].name in str(caught.value)


def test_a_cache_that_is_a_file_or_may_not_be_read_is_told(cache, read_only_folder):
    cache.root.mkdir()
    cache.path.write_text("a file")
    with pytest.raises(CacheError, match="cannot be read"):
        cache.missing(KEYS)
    folder, become_reader = read_only_folder
    closed = FeatureCache(folder, SPEC)
    fill(closed, KEYS)
    shard_paths(closed)[0].chmod(0)

    def read():
        become_reader()
        with pytest.raises(CacheError, match="cannot be read: Permission denied"):
            FeatureCache(folder, SPEC).missing(KEYS)

    in_process(read)
    assert not (closed.path / "damaged").exists()

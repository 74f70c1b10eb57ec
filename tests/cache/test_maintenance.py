"""Damaged rows are found and dropped, unneeded ones pruned, whatever other processes do meanwhile."""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import FeatureCache
from cache.errors import CacheError
from cache.gather_rows import read_rows
from cache.shard import open_shard
from tests.cache.conftest import SPEC, features_of, fill, holds_right_rows, make_keys, shard_paths
from tests.cache.processes import in_process, in_processes

KEYS = make_keys(30)


def flip(path: Path, row: int, byte: int = 2) -> None:
    shard, _ = open_shard(path, SPEC)
    content = bytearray(path.read_bytes())
    content[shard.storage.offset + row * shard.row_bytes + byte] ^= 0x40
    path.write_bytes(content)


# Damage


def test_a_flipped_byte_is_never_served_and_named_by_shard_row_and_key(cache):
    fill(cache, KEYS)
    path = shard_paths(cache)[1]
    _, table = open_shard(path, SPEC)
    flip(path, row=4)
    key = "".join(f"{int(half):016x}" for half in table.keys[4])
    out = np.zeros((30, 6), np.float32)
    for reader in (cache, FeatureCache(cache.root, SPEC)):
        with pytest.raises(CacheError, match=f"1 of 30 rows are damaged.*row 4 of .*{path.name} .{key}.*repair"):
            reader.read(KEYS, out=out)
        sound = [other_key for other_key in KEYS if other_key != key]
        np.testing.assert_array_equal(reader.read(sound), features_of(sound))
        assert reader.verify() == [(path.name, 4, key, 0)]


def test_repair_drops_damaged_rows_and_nothing_else(cache):
    with cache.writer() as writer:
        for view in (0, 1):
            writer.append(KEYS, features_of(KEYS, view=view), seconds=30, view=view)
    path = shard_paths(cache)[0]
    flip(path, row=7)
    flip(path, row=40)
    dropped = cache.repair()
    assert [(damage.row, damage.view) for damage in dropped] == [(7, 0), (40, 1)]
    assert cache.missing(KEYS) == [KEYS[7]]
    assert cache.missing(KEYS, view=1) == [KEYS[10]]
    assert not cache.verify()
    assert (cache.path / "damaged" / path.name).exists()
    assert "2 damaged rows" in cache.warnings[0]
    for view, lost in ((0, 7), (1, 10)):
        sound = KEYS[:lost] + KEYS[lost + 1 :]
        np.testing.assert_array_equal(FeatureCache(cache.root, SPEC).read(sound, view), features_of(sound, view=view))
    assert cache.compute_seconds(KEYS) == pytest.approx(29.0)
    assert cache.repair() == []


def test_verify_can_be_watched(cache):
    fill(cache, KEYS)
    flip(shard_paths(cache)[2], row=0)
    watched = []
    assert len(cache.verify(lambda shards: (watched.append(shard.path.name) or shard for shard in shards))) == 1
    assert watched == [path.name for path in shard_paths(cache)]


def test_a_reader_survives_that_another_process_rewrites_its_shards(cache):
    fill(cache, KEYS)
    reader = FeatureCache(cache.root, SPEC)
    reader.read(KEYS)
    flip(shard_paths(cache)[0], row=0)
    [damage] = cache.repair()
    rest = [key for key in KEYS if key != damage.key]
    np.testing.assert_array_equal(reader.read(rest), features_of(rest))


# Pruning


def content(cache: FeatureCache) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in cache.path.rglob("*.h5")}


def test_pruning_drops_every_view_of_what_is_not_needed_and_nothing_else(cache):
    fill(cache, KEYS)
    with cache.writer() as writer:
        writer.append(KEYS[:15], features_of(KEYS[:15], view=2), seconds=15, view=2)
    first, second, third, views = shard_paths(cache)
    before = content(cache)
    needed = [*KEYS[:10], *KEYS[20:24], *make_keys(2, start=100)]
    dropped = cache.plan_prune(needed)
    assert (dropped.rows, content(cache)) == (16 + 5, before)  # nothing has happened yet
    assert dropped.size == pytest.approx(sum(before[path.name][1] for path in (second, third)), rel=0.4)
    assert cache.prune(needed) == dropped
    assert first in shard_paths(cache)
    assert content(cache)[first.name] == before[first.name]  # a shard that is needed whole is not touched
    assert not {second, third, views} & set(shard_paths(cache))
    for reader in (cache, FeatureCache(cache.root, SPEC)):
        assert reader.missing(KEYS) == [*KEYS[10:20], *KEYS[24:]]
        assert reader.missing(KEYS, view=2) == KEYS[10:]
        assert reader.views == {0: 14, 2: 10}
        np.testing.assert_array_equal(reader.read(needed[:14]), features_of(needed[:14]))
        np.testing.assert_array_equal(reader.read(KEYS[:10], view=2), features_of(KEYS[:10], view=2))
        assert reader.compute_seconds(needed) == pytest.approx(14.0)
    with h5py.File(cache.path / "index.h5") as index:
        assert np.isfinite(index["features"][()]).all()
        assert len(index["keys"]) == 24
    assert cache.prune(needed) == (0, 0)
    assert (cache.verify(), cache.warnings) == ([], [])


def test_pruning_all_leaves_an_empty_cache_that_can_be_filled_again(cache):
    fill(cache, KEYS)
    cache.mark_unreadable({make_keys(1, start=99)[0]: "bad"})
    assert cache.prune([]).rows == 30
    assert (len(cache), shard_paths(cache), list(cache.path.glob("index.h5"))) == (0, [], [])
    assert list(cache.unreadable().values()) == ["bad"]
    fill(cache, KEYS)
    assert holds_right_rows(cache, KEYS)


def test_pruning_does_not_throw_away_the_evidence_of_damage_in_what_is_needed(cache):
    fill(cache, KEYS)
    first, second, _ = shard_paths(cache)
    flip(first, row=3)
    flip(second, row=3)
    cache.prune([*KEYS[:5], *KEYS[15:]])
    assert [path.name for path in cache.damaged] == [first.name]
    assert "1 damaged rows" in cache.warnings[0]
    assert cache.missing([*KEYS[:5], *KEYS[15:]]) == [KEYS[3]]
    assert not cache.verify()


def test_a_prune_that_is_killed_at_any_moment_loses_no_row_that_is_needed(tmp_path):
    keys = make_keys(48)
    needed = keys[::2]
    for moment in range(0, 16, 2):
        cache = FeatureCache(tmp_path / str(moment), SPEC)
        fill(cache, keys, shard_rows=6)
        old = set(shard_paths(cache))
        process = multiprocessing.get_context("fork").Process(target=cache.prune, args=(needed,))
        process.start()
        while process.is_alive() and len(set(shard_paths(cache)) ^ old) < moment:
            pass
        process.kill()
        process.join()
        survivor = FeatureCache(cache.root, SPEC)
        assert holds_right_rows(survivor, needed)
        assert (survivor.verify(), survivor.warnings) == ([], [])
        survivor.prune(needed)
        assert (len(survivor), survivor.plan_prune(needed).rows) == (24, 0)


def test_a_read_sees_through_that_every_shard_is_rewritten_again_and_again_just_before_it_is_opened(cache, monkeypatch):
    fill(cache, KEYS)
    other, prunes = FeatureCache(cache.root, SPEC), iter([KEYS[1::2], KEYS[3::4], KEYS[7::8]])

    def prune_and_gather(*arguments):
        for needed in islice(prunes, 1):
            other.prune(needed)
        return read_rows(*arguments)

    monkeypatch.setattr("cache.feature_cache.read_rows", prune_and_gather)
    np.testing.assert_array_equal(cache.read(KEYS[7::8]), features_of(KEYS[7::8]))
    assert (next(prunes, None), len(other)) == (None, 3)


def test_rows_that_move_to_another_shard_while_the_cache_is_looked_at_are_not_missed(cache, monkeypatch):
    fill(cache, KEYS)
    other, prunes = FeatureCache(cache.root, SPEC), iter([KEYS[1::2], KEYS[3::4]])
    other.refresh()

    def prune_and_open(*arguments):
        for needed in islice(prunes, 1):
            other.prune(needed)
        return open_shard(*arguments)

    monkeypatch.setattr("cache.shard_catalog.open_shard", prune_and_open)
    reader = FeatureCache(cache.root, SPEC)
    assert reader.missing(KEYS[3::4]) == []
    assert next(prunes, None) is None


def test_a_shard_that_is_rewritten_while_it_is_verified_is_not_damage(cache):
    fill(cache, KEYS)

    def prune_and_go_on(shards):
        for shard in shards:
            yield shard
            FeatureCache(cache.root, SPEC).prune(KEYS[::2])

    assert cache.verify(prune_and_go_on) == []


def _read_until(cache: FeatureCache, keys: list[str], folder: Path) -> None:
    """Read, as a process that was at work before and as one that starts now, until there is a file ``stop``."""
    while not (folder / "stop").exists():
        assert holds_right_rows(cache, keys)
        assert holds_right_rows(FeatureCache(cache.root, SPEC), keys)
        assert cache.verify() == []
        (folder / "started").touch()


def test_readers_at_work_are_not_disturbed_by_a_prune(cache, tmp_path):
    keys = make_keys(160)
    fill(cache, keys, shard_rows=4)
    cache.read(keys)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as processes:
        reading = processes.submit(_read_until, cache, keys[::2], tmp_path)
        while not (tmp_path / "started").exists() and not reading.done():
            time.sleep(0.01)
        cache.prune(keys[::2])
        (tmp_path / "stop").touch()
        reading.result()
    assert cache.plan_prune(keys[::2]).rows == 0


def test_processes_prune_at_once(cache):
    keys = make_keys(80)
    fill(cache, keys, shard_rows=8)
    in_processes(cache.prune, [(keys[::2],)] * 3)
    assert cache.plan_prune(keys[::2]).rows == 0
    assert len(cache) == 40
    assert holds_right_rows(cache, keys[::2])
    assert (cache.verify(), cache.warnings) == ([], [])


def test_pruning_on_a_full_disk_first_makes_room_and_then_loses_nothing(cache):
    fill(cache, KEYS)
    first, second, third = shard_paths(cache)

    def prune():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(CacheError, match="no room"):
            cache.prune(KEYS[:5])

    in_process(prune)
    assert shard_paths(cache) == [first]
    assert holds_right_rows(cache, KEYS[:10])

from __future__ import annotations

import json
import multiprocessing
import pickle
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache, Spec
from cache.errors import CacheError
from cache.gather_rows import read_rows
from cache.shard import open_shard
from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths
from tests.cache.processes import in_process, in_processes

KEYS = make_keys(30)
FIXTURES = Path(__file__).parent / "fixtures"


def flip(path: Path, row: int, byte: int = 2) -> None:
    shard, _ = open_shard(path, SPEC)
    content = bytearray(path.read_bytes())
    content[shard.storage.offset + row * shard.row_bytes + byte] ^= 0x40
    path.write_bytes(content)


# What is asked and answered


def test_nothing_is_created_before_the_first_write(cache):
    assert cache.missing(KEYS) == KEYS
    assert (len(cache), cache.size_on_disk, cache.compute_seconds(KEYS), cache.unreadable()) == (0, 0, 0.0, {})
    assert not cache.root.exists()


def test_an_empty_cache_says_that_it_is_empty(cache):
    for ask in (lambda: cache.row_shape, lambda: cache.read(KEYS), lambda: cache.read([])):
        with pytest.raises(CacheError, match="extract"):
            ask()


operations = st.lists(
    st.tuples(st.lists(st.integers(0, 29), max_size=8), st.integers(0, 2), st.booleans(), st.booleans()), max_size=5
)


@settings(deadline=None, max_examples=25)
@given(operations=operations, asked=st.lists(st.integers(0, 29), max_size=40), shard_rows=st.integers(1, 6))
def test_a_cache_answers_like_a_dict(tmp_path_factory, operations, asked, shard_rows):
    root = tmp_path_factory.mktemp("model")
    cache, expected = FeatureCache(root, SPEC), {}
    for indices, view, other_process, reopened in operations:
        keys = [KEYS[index] for index in indices]
        target = FeatureCache(root, SPEC) if other_process else cache
        with target.writer(shard_bytes=shard_rows * 24) as writer:
            writer.append(keys, features_of(keys, view=view), view=view)
        expected.update({(key, view): features_of([key], view=view)[0] for key in keys})
        cache = FeatureCache(root, SPEC) if reopened else cache
    wanted = [KEYS[index] for index in asked]
    assert len(cache) == len(expected)
    for view in range(3):
        there = [key for key in wanted if (key, view) in expected]
        assert cache.missing(wanted, view) == [key for key in dict.fromkeys(wanted) if (key, view) not in expected]
        if expected:
            np.testing.assert_array_equal(
                cache.read(there, view), np.array([expected[key, view] for key in there]).reshape(-1, 6)
            )
    shutil.rmtree(root)


def test_keys_without_a_row_are_named(cache):
    fill(cache, KEYS[:28])
    with pytest.raises(CacheError, match=f"2 of 30 samples have no features.*{KEYS[28]}, {KEYS[29]}.*extract"):
        cache.read(KEYS)
    with pytest.raises(CacheError, match=r"view 1.*and 25 more"):
        cache.read(KEYS, view=1)


def test_views_are_kept_apart(cache):
    with cache.writer() as writer:
        for view in (0, 3):
            writer.append(KEYS, features_of(KEYS, view=view), view=view)
    for view in (0, 3):
        np.testing.assert_array_equal(cache.read(KEYS, view=view), features_of(KEYS, view=view))
    assert cache.missing(KEYS, view=1) == KEYS


def test_rows_can_be_read_into_an_array_that_is_there(cache):
    fill(cache, KEYS)
    out = np.zeros((30, 6), np.float32)
    assert cache.read(KEYS[::-1], out=out) is out
    np.testing.assert_array_equal(out, features_of(KEYS[::-1]))
    locked = np.zeros((30, 6), np.float32)
    locked.flags.writeable = False
    for wrong in (out[:29], out.astype(np.float64), np.zeros((6, 30), np.float32).T, locked):
        with pytest.raises(CacheError, match="out has to be a contiguous float32 array"):
            cache.read(KEYS, out=wrong)


def test_rows_are_missed_no_longer_once_they_are_written(cache):
    assert cache.missing(KEYS) == KEYS
    fill(cache, KEYS[:10])
    assert cache.missing([*KEYS, *KEYS]) == KEYS[10:]
    in_process(fill, FeatureCache(cache.root, cache.spec), KEYS[10:20])
    assert cache.missing(KEYS) == KEYS[20:]
    assert cache.read(KEYS[:20]).shape == (20, 6)


def test_the_cost_of_rows_is_their_share_of_what_was_spent(cache):
    with cache.writer(shard_bytes=10 * 24) as writer:
        writer.append(KEYS[:25], features_of(KEYS[:25]), seconds=50.0)
    with cache.writer() as writer:
        writer.append(KEYS[25:], features_of(KEYS[25:]), seconds=1.0)
    assert cache.compute_seconds(KEYS) == pytest.approx(51.0)
    assert cache.compute_seconds(KEYS[:5]) == pytest.approx(10.0)
    assert cache.compute_seconds([KEYS[29], KEYS[29]]) == pytest.approx(0.2)
    assert cache.compute_seconds(make_keys(3, start=100)) == 0.0


def test_the_same_rows_twice_count_once(cache):
    fill(cache, KEYS)
    fill(cache, KEYS)
    assert len(cache) == 30
    np.testing.assert_array_equal(cache.read(KEYS), features_of(KEYS))


# Rejections


def test_rejected_samples_are_remembered_with_their_reasons_and_not_asked_for_again(cache):
    reasons = {KEYS[0]: "truncated JPEG", KEYS[1]: "text named .jpg \N{GRINNING FACE} \udcff\n"}
    cache.mark_unreadable(reasons)
    cache.mark_unreadable({})
    cache.mark_unreadable({KEYS[0]: "told before", KEYS[2]: "bomb"})
    again = FeatureCache(cache.root, cache.spec)
    assert again.unreadable() == {**reasons, KEYS[2]: "bomb"}
    assert again.missing(KEYS) == KEYS[3:]
    with pytest.raises(CacheError, match="is not a key"):
        cache.mark_unreadable({"photo.jpg": "bad"})


def test_processes_reject_at_once(cache):
    parts = [KEYS[start::6] for start in range(6)]
    in_processes(cache.mark_unreadable, [({key: f"reason {key}" for key in part},) for part in parts])
    assert cache.unreadable() == {key: f"reason {key}" for key in KEYS}


def test_a_torn_rejection_is_set_aside_and_told(cache):
    cache.mark_unreadable({KEYS[0]: "bad"})
    (cache.path / "rejected" / "torn.json").write_text('{"encoding-type": "rejec')
    assert cache.unreadable() == {KEYS[0]: "bad"}
    assert "torn.json is damaged" in cache.warnings[0]
    assert (cache.path / "damaged" / "torn.json").exists()


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
        sound = [one for one in KEYS if one != key]
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
    assert _read(cache, KEYS)


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
        assert _read(survivor, needed)
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
        assert _read(cache, keys)
        assert _read(FeatureCache(cache.root, SPEC), keys)
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
    assert _read(cache, keys[::2])
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
    assert _read(cache, KEYS[:10])


# What is there


def test_keys_come_in_the_order_in_which_the_rows_are_stored(cache):
    fill(cache, KEYS[::-1])
    fill(cache, KEYS)
    with cache.writer() as writer:
        writer.append(KEYS[3:5], features_of(KEYS[3:5], view=7), view=7)
    assert cache.keys() == KEYS[::-1]
    assert (cache.keys(7), cache.keys(1)) == (KEYS[3:5], [])
    assert cache.views == {0: 30, 7: 2}
    assert [shard.path for shard in cache.shards] == shard_paths(cache)


# The spec's record and versions


def test_spec_json_tells_what_the_cache_is_made_of_and_is_made_again_when_damaged(cache):
    fill(cache, KEYS[:10])
    document = json.loads((cache.path / "spec.json").read_text())
    assert Spec.from_json(document["spec"]) == SPEC
    assert (document["encoding-type"], document["encoding-version"]) == ("feature-cache", 1)
    (cache.path / "spec.json").write_text("{")
    again = FeatureCache(cache.root, SPEC)
    np.testing.assert_array_equal(again.read(KEYS[:10]), features_of(KEYS[:10]))
    fill(again, KEYS[10:])
    assert json.loads((cache.path / "spec.json").read_text()) == document


def test_a_cache_of_another_version_is_refused_and_left_alone(cache):
    fill(cache, KEYS)
    path = cache.path / "spec.json"
    path.write_text(path.read_text().replace('"encoding-version": 1', '"encoding-version": 99'))
    before = {one: one.stat().st_mtime_ns for one in cache.path.rglob("*")}
    again = FeatureCache(cache.root, SPEC)
    for ask in (lambda: again.missing(KEYS), lambda: again.read(KEYS), again.writer):
        with pytest.raises(CacheError, match=r"spec\.json was made by another version.*99"):
            ask()
    assert {one: one.stat().st_mtime_ns for one in cache.path.rglob("*")} == before


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_caches_made_by_version_1_are_read(dtype, tmp_path):
    """The fixtures were written once and must never be written again: later versions have to read them as they are."""
    shutil.copytree(FIXTURES / "version-1", tmp_path / "caches")
    spec = Spec.from_json({**SPEC.to_json(), "dtype": dtype})
    cache = FeatureCache(tmp_path / "caches", spec)
    keys = make_keys(12)
    assert cache.missing(keys) == keys[10:11]
    assert cache.unreadable() == {keys[11]: "truncated JPEG"}
    np.testing.assert_array_equal(cache.read(keys[:10]), features_of(keys[:10], (4,)).astype(dtype))
    np.testing.assert_array_equal(cache.read(keys[:3], view=2), features_of(keys[:3], (4,), view=2).astype(dtype))
    assert cache.compute_seconds(keys) == pytest.approx(10.0)
    assert (cache.verify(), cache.warnings) == ([], [])


# Processes


def _extract(root: Path, keys: list[str]) -> list[str]:
    cache = FeatureCache(root, SPEC)
    with cache.writer(shard_bytes=10 * 24) as writer:
        for start in range(0, len(keys), 5):
            part = keys[start : start + 5]
            writer.append(part, features_of(part), seconds=5.0)
    return cache.missing(keys)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_writing_the_same_keys_at_once_do_not_disturb_each_other(cache, start):
    keys = make_keys(200)
    assert in_processes(_extract, [(cache.root, keys)] * 3, start) == [[], [], []]
    assert len(cache) == 200
    np.testing.assert_array_equal(cache.read(keys), features_of(keys))
    assert (cache.verify(), cache.warnings) == ([], [])
    assert not list(cache.path.rglob("*.tmp"))
    assert cache.compute_seconds(keys) == pytest.approx(200.0)


def _read(cache: FeatureCache, keys: list[str]) -> bool:
    return bool((cache.read(keys) == features_of(keys)).all()) and cache.missing(keys) == []


def test_threads_of_one_process_write_at_once(cache):
    keys = make_keys(200)
    parts = [keys[start::4] for start in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda part: _extract(cache.root, part), parts))
    np.testing.assert_array_equal(cache.read(keys), features_of(keys))
    assert (cache.verify(), cache.warnings) == ([], [])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_opened_cache_is_read_in_child_processes(cache, start):
    fill(cache, KEYS)
    cache.read(KEYS)
    assert in_processes(_read, [(cache, KEYS)] * 3, start) == [True] * 3
    assert _read(cache, KEYS)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told by Linux only")
def test_no_file_stays_open(cache):
    fill(cache, KEYS)
    cache.read(KEYS)
    cache.verify()
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in opened if str(cache.path) in name]


def test_a_cache_is_read_while_another_process_writes(cache):
    keys = make_keys(300)
    process = multiprocessing.get_context("fork").Process(target=_extract, args=(cache.root, keys))
    process.start()
    seen = 0
    while seen < len(keys):
        there = len(keys) - len(cache.missing(keys))
        assert there >= seen
        seen = there
        found = [key for key in keys if key not in set(cache.missing(keys))]
        if found:
            assert _read(cache, found)
        assert process.is_alive() or len(cache.missing(keys)) == 0
    process.join()
    assert process.exitcode == 0


def test_a_pickled_cache_takes_along_where_it_is_and_not_what_is_in_it(cache):
    fill(cache, KEYS)
    pickled = pickle.dumps(cache)
    assert len(pickled) == len(pickle.dumps(FeatureCache(cache.root, SPEC)))
    assert _read(pickle.loads(pickled), KEYS)


def test_a_read_only_cache_is_read_and_not_written(read_only_folder):
    folder, become_reader = read_only_folder
    fill(FeatureCache(folder, SPEC), KEYS)

    def use():
        become_reader()
        cache = FeatureCache(folder, SPEC)
        with pytest.raises(CacheError, match="cannot be written"):
            cache.writer()
        with pytest.raises(CacheError, match="cannot be written"):
            cache.prune(KEYS[:5])
        with pytest.raises(CacheError, match="cannot be written"):
            cache.mark_unreadable({make_keys(1, start=99)[0]: "bad"})
        return _read(cache, KEYS), cache.verify(), cache.warnings

    assert in_process(use) == (True, [], [])

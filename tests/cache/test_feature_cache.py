from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache, Spec, open_cache
from cache.errors import CacheError
from tests.cache.conftest import SPEC, features_of, fill, holds_right_rows, make_keys, shard_paths
from tests.cache.processes import in_process, in_processes

KEYS = make_keys(30)
FIXTURES = Path(__file__).parent / "fixtures"


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
        present = [key for key in wanted if (key, view) in expected]
        assert cache.missing(wanted, view) == [key for key in dict.fromkeys(wanted) if (key, view) not in expected]
        if expected:
            np.testing.assert_array_equal(
                cache.read(present, view), np.array([expected[key, view] for key in present]).reshape(-1, 6)
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
    reopened = FeatureCache(cache.root, cache.spec)
    assert reopened.unreadable() == {**reasons, KEYS[2]: "bomb"}
    assert reopened.missing(KEYS) == KEYS[3:]
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
    reopened = FeatureCache(cache.root, SPEC)
    np.testing.assert_array_equal(reopened.read(KEYS[:10]), features_of(KEYS[:10]))
    fill(reopened, KEYS[10:])
    assert json.loads((cache.path / "spec.json").read_text()) == document


def test_a_spec_that_is_gone_is_written_again_where_there_are_rows_and_it_can_be(cache, monkeypatch):
    cache.mend_spec()
    assert not cache.path.exists()
    fill(cache, KEYS[:10])
    document = (cache.path / "spec.json").read_bytes()
    (cache.path / "spec.json").unlink()
    with pytest.raises(
        CacheError, match=r"spec\.json is not there; `extract`, of images that the cache has, writes it"
    ):
        open_cache(cache.path)
    reopened = FeatureCache(cache.root, SPEC)
    with monkeypatch.context() as patched:
        patched.setattr("cache.feature_cache.write_document", Mock(side_effect=CacheError("a disk that is read only")))
        reopened.mend_spec()
    reopened.mend_spec()
    assert (cache.path / "spec.json").read_bytes() == document


def test_a_cache_of_another_version_is_refused_and_left_alone(cache):
    fill(cache, KEYS)
    path = cache.path / "spec.json"
    path.write_text(path.read_text().replace('"encoding-version": 1', '"encoding-version": 99'))
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*")}
    reopened = FeatureCache(cache.root, SPEC)
    for ask in (lambda: reopened.missing(KEYS), lambda: reopened.read(KEYS), reopened.writer):
        with pytest.raises(CacheError, match=r"spec\.json was made by another version.*99"):
            ask()
    assert {path: path.stat().st_mtime_ns for path in cache.path.rglob("*")} == before


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
    assert in_processes(holds_right_rows, [(cache, KEYS)] * 3, start) == [True] * 3
    assert holds_right_rows(cache, KEYS)


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
        row_count = len(keys) - len(cache.missing(keys))
        assert row_count >= seen
        seen = row_count
        readable_keys = [key for key in keys if key not in set(cache.missing(keys))]
        if readable_keys:
            assert holds_right_rows(cache, readable_keys)
        assert process.is_alive() or len(cache.missing(keys)) == 0
    process.join()
    assert process.exitcode == 0


def test_a_pickled_cache_takes_along_where_it_is_and_not_what_is_in_it(cache):
    fill(cache, KEYS)
    pickled = pickle.dumps(cache)
    assert len(pickled) == len(pickle.dumps(FeatureCache(cache.root, SPEC)))
    assert holds_right_rows(pickle.loads(pickled), KEYS)


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
        return holds_right_rows(cache, KEYS), cache.verify(), cache.warnings

    assert in_process(use) == (True, [], [])


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_a_shard_is_written_on_trial_and_nothing_of_it_stays(tmp_path, spec, there, dtype):
    cache = FeatureCache(tmp_path / "caches", Spec.from_json({**spec.to_json(), "dtype": dtype}))
    rows = np.random.default_rng(0).random((64, 8, 4, 4), dtype=np.float32)
    if there:
        with cache.writer() as writer:
            writer.append(make_keys(2), rows[:2])
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    for compression in ("none", "gzip"):
        assert cache.seconds_to_write(rows, compression=compression) > 0
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before
    rows[3, 0, 0, 0] = np.inf
    with pytest.raises(CacheError, match="beyond 65504"):
        cache.seconds_to_write(rows)
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before

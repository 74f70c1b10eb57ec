from __future__ import annotations

import os
import resource
import signal
import threading
import time

import numpy as np
import pytest

from cache import FeatureCache, Spec
from cache.errors import CacheError
from cache.shard_writer import ShardLimits, ShardWriter
from tests.cache.conftest import features_of, fill, make_keys, shard_paths
from tests.cache.processes import in_process

KEYS = make_keys(40)


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_a_shard_is_written_when_there_are_enough_bytes(cache):
    with cache.writer(shard_bytes=20 * 24) as writer:
        writer.append(KEYS[:9], features_of(KEYS[:9]))
        assert not shard_paths(cache)
        assert writer.written == 0
        writer.append(KEYS[9:12], features_of(KEYS[9:12]))
        until(lambda: writer.written == 12)
        assert len(shard_paths(cache)) == 1
        assert len(cache) == 12
    writer.append([], np.empty((0, 6), np.float32))
    assert len(shard_paths(cache)) == 1


def test_what_is_not_on_disk_is_never_more_than_a_shard(cache):
    """A disk that cannot keep up holds the caller back, instead of letting rows pile up."""
    keys = make_keys(200)
    disk, waiting = threading.Semaphore(0), []

    def slow(image: bytes) -> None:
        disk.acquire()

    writer = ShardWriter(cache.spec, (6,), slow, lambda: None, ShardLimits(20 * 24, 60))
    appended = 0

    def append() -> None:
        nonlocal appended
        with writer:
            for start in range(0, len(keys), 5):
                writer.append(keys[start : start + 5], features_of(keys[start : start + 5]))
                appended += 5

    thread = threading.Thread(target=append)
    thread.start()
    for _ in range(20):
        time.sleep(0.01)
        waiting.append(appended - writer.written)
        disk.release()
    thread.join()
    assert 10 <= max(waiting) <= 20
    assert writer.written == len(keys)


def test_one_big_append_becomes_several_shards(cache):
    fill(cache, KEYS, shard_rows=7)
    assert len(shard_paths(cache)) == 6
    np.testing.assert_array_equal(cache.read(KEYS), features_of(KEYS))


def test_a_shard_is_written_when_its_rows_get_old(cache):
    with cache.writer(shard_seconds=0.1) as writer:
        writer.append(KEYS[:1], features_of(KEYS[:1]))
        time.sleep(0.1)
        assert not shard_paths(cache)
        writer.append(KEYS[1:2], features_of(KEYS[1:2]))
        until(lambda: writer.written == 2)
        writer.append(KEYS[2:3], features_of(KEYS[2:3]))
        assert len(shard_paths(cache)) == 1


def test_flush_returns_when_all_rows_are_in_the_cache(cache):
    with cache.writer() as writer:
        writer.append(KEYS[:3], features_of(KEYS[:3]))
        writer.flush()
        assert cache.missing(KEYS) == KEYS[3:]
        writer.flush()
        assert len(shard_paths(cache)) == 1


@pytest.mark.parametrize("how", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_all_rows_appended_before_an_exception_are_kept(cache, how):
    def extract() -> None:
        with cache.writer() as writer:
            writer.append(KEYS[:3], features_of(KEYS[:3]))
            raise how

    with pytest.raises(how):
        extract()
    assert cache.missing(KEYS) == KEYS[3:]


def test_the_callers_array_may_be_used_again(cache):
    rows = features_of(KEYS)
    with cache.writer() as writer:
        writer.append(KEYS, rows)
        rows[:] = 0
    np.testing.assert_array_equal(cache.read(KEYS), features_of(KEYS))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_by_key_and_none_of_them_is_added(cache, value):
    rows = features_of(KEYS)
    rows[7, 2] = value
    with cache.writer() as writer:
        writer.append(KEYS[:2], rows[:2])
        with pytest.raises(CacheError, match=f"NaN or infinity for 1 samples: {KEYS[7]}"):
            writer.append(KEYS[2:], rows[2:])
    assert cache.missing(KEYS) == KEYS[2:]


def test_what_is_too_large_for_float16_is_refused_with_the_option_that_helps(tmp_path, spec):
    cache = FeatureCache(tmp_path, Spec.from_json({**spec.to_json(), "dtype": "float16"}))
    rows = features_of(KEYS[:3])
    rows[1, 0] = 70_000
    with (
        cache.writer() as writer,
        pytest.raises(
            CacheError, match=rf"beyond 65504, where float16 ends, for 1 samples: {KEYS[1]}.*`storage_dtype` float32"
        ),
    ):
        writer.append(KEYS[:3], rows)
    rows[1, 0] = 65_504
    with cache.writer() as writer:
        writer.append(KEYS[:3], rows)
    assert cache.read(KEYS[:3]).dtype == np.float16
    np.testing.assert_array_equal(cache.read(KEYS[:3]), rows.astype(np.float16))


def test_keys_and_rows_that_do_not_match_are_refused(cache):
    with cache.writer() as writer:
        for rows in (features_of(KEYS[:2]), np.zeros(3), np.zeros((3, 0))):
            with pytest.raises(CacheError, match="3 keys need features"):
                writer.append(KEYS[:3], rows)
        with pytest.raises(CacheError, match=r"'photo\.jpg' is not a key"):
            writer.append(["photo.jpg"], np.zeros((1, 6)))
        with pytest.raises(CacheError, match="-1 is not a view"):
            writer.append(KEYS[:1], np.zeros((1, 6)), view=-1)
    assert len(cache) == 0


def test_rows_of_another_shape_are_refused_now_and_later(cache):
    with cache.writer() as writer:
        writer.append(KEYS[:1], np.zeros((1, 6)))
        with pytest.raises(CacheError, match=r"\(7,\) do not belong to a cache of \(6,\)"):
            writer.append(KEYS[1:2], np.zeros((1, 7)))
    with cache.writer() as writer, pytest.raises(CacheError, match="do not belong"):
        writer.append(KEYS[1:2], np.zeros((1, 2, 3)))


def test_a_full_disk_keeps_finished_shards_and_goes_on_when_there_is_room(cache):
    keys = make_keys(60)
    rows = features_of(keys, (3000,))

    def fill_the_disk() -> None:
        with cache.writer(shard_bytes=480_000) as writer:
            writer.append(keys[:20], rows[:20])
            writer.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            with pytest.raises(CacheError, match=r"no room.*bytes needed"):
                writer.append(keys[20:], rows[20:])

    in_process(fill_the_disk)
    assert [path.suffix for path in (cache.path / "shards").iterdir()] == [".h5"]
    assert cache.missing(keys) == keys[20:]
    np.testing.assert_array_equal(cache.read(keys[:20]), rows[:20])
    with cache.writer() as writer:
        writer.append(keys[20:], rows[20:])
    np.testing.assert_array_equal(cache.read(keys), rows)


def test_killed_writer_loses_at_most_one_shard(cache):
    """Killed at random moments, restarted each time with what is missing, until nothing is."""
    keys = make_keys(400)
    random = np.random.default_rng(0)
    acknowledged = 0
    for kill in range(12):
        missing = cache.missing(keys)
        assert len(keys) - len(missing) >= acknowledged
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                with cache.writer(shard_bytes=20 * 24) as writer:
                    for start in range(0, len(missing), 5):
                        writer.append(missing[start : start + 5], features_of(missing[start : start + 5]), seconds=5)
                        os.write(sender, b".....")
                        time.sleep(0.001)
            finally:
                os._exit(0)
        os.close(sender)
        time.sleep(random.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        appended = 0
        while chunk := os.read(receiver, 1 << 16):
            appended += len(chunk)
        os.close(receiver)
        acknowledged = len(keys) - len(missing) + max(0, appended - 20)
        rest = set(cache.missing(keys))
        assert len(keys) - len(rest) >= acknowledged, f"kill {kill} lost more than a shard"
        there_now = [key for key in keys if key not in rest]
        if there_now:
            np.testing.assert_array_equal(cache.read(there_now), features_of(there_now))
    rest = cache.missing(keys)
    with cache.writer() as writer:
        writer.append(rest, features_of(rest))
    np.testing.assert_array_equal(cache.read(keys), features_of(keys))
    assert not cache.verify()
    assert not cache.warnings

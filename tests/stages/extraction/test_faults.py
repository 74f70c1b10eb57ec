"""What a fault must not cost, from the images to the features: benchmarks/faults.py does the same hundreds of times."""

import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache import FeatureCache
from cache.errors import CacheError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import drop_unreadable, read_features
from stages.extraction.work_queue import content_defined_blocks
from tests.photographs import make_folder
from tests.stages.cached_rows import CachedRows

FORK = multiprocessing.get_context("fork")
SHARD_BYTES = 32 * 1280 * 2
"""Two shards of 16 rows: what may be in memory."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """90 photographs, and 2 files that are none."""
    folder = make_folder(tmp_path_factory.mktemp("faults") / "images", per_class=30)
    for number in range(2):
        (folder / "fire" / f"000-{number}.jpg").write_text(f"no picture {number}")
    return load_manifest(DataConfig(str(folder)))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """On the CPU, of which every bit is claimed, and which a forked process may use whatever its parent has used."""
    return build_extractor(
        FeatureConfig(
            device="cpu",
            image_size=32,
            cache=tmp_path_factory.mktemp("undisturbed"),
            extract_batch_size=8,
            decode_threads=1,
        )
    )


@pytest.fixture(scope="module")
def undisturbed(network, manifest):
    """What a process that nobody disturbs extracts: the features of all that can be read."""
    in_child(extract, network, manifest)
    return read_features(network, drop_unreadable(network, manifest))


@pytest.fixture
def extractor(network, tmp_path):
    """The same network, with an empty cache."""
    return with_cache(network, tmp_path / "cache")


def with_cache(network, root):
    (tap,) = network.taps
    stores = {name: FeatureCache(root, getattr(tap, name).spec) for name in ("cache", "view_cache")}
    return replace(network, taps=(replace(tap, **stores),))


def start(work, *arguments, **options):
    """Start work in a process that finds network and libraries ready."""

    def alone():
        torch.set_num_threads(1)
        work(*arguments, **options)

    process = FORK.Process(target=alone)
    process.start()
    return process


def in_child(work, *arguments, **options):
    process = start(work, *arguments, **options)
    process.join()
    assert process.exitcode == 0


def shard_paths(cache):
    return sorted((cache.path / "shards").glob("*.h5"))


def check_undisturbed(extractor, manifest, undisturbed):
    later = with_cache(extractor, extractor.taps[0].cache.root)  # as a process that comes later
    cache = later.taps[0].cache
    assert cache.verify() == []
    assert cache.warnings == []
    readable = drop_unreadable(later, manifest)
    assert read_features(later, readable).tobytes() == undisturbed.tobytes()
    assert sum(shard.rows for shard in cache.shards) == len(readable)
    assert len(later.unreadable()) == 2
    with h5py.File(cache.path / "index.h5") as index:
        assert sorted(key.decode() for key in index["keys"]) == sorted(readable.keys)
        assert np.isfinite(index["features"][()]).all()
    assert not list(cache.path.rglob("*.tmp"))


# Loss of power: what it can leave behind


def cut_off(path):
    os.truncate(path, random.Random(0).randrange(path.stat().st_size))


def a_temporary_file(cache):
    gone = start(int)
    gone.join()
    path = cache.path / "shards" / f"{os.uname().nodename}-{gone.pid}-0123456789abcdef.tmp"
    path.write_bytes(shard_paths(cache)[0].read_bytes()[:5000])
    os.utime(path, (time.time() - 120,) * 2)


def an_empty_shard(cache):
    os.truncate(shard_paths(cache)[1], 0)
    return shard_paths(cache)[1]


def a_shard_that_is_cut_off(cache):
    cut_off(shard_paths(cache)[1])
    return shard_paths(cache)[1]


def rejections_that_are_cut_off(cache):
    path = min((cache.path / "rejected").iterdir())
    cut_off(path)
    return path


def a_spec_that_is_cut_off(cache):
    cut_off(cache.path / "spec.json")


def a_torn_index(cache):
    cut_off(cache.path / "index.h5")


def garbage_for_an_index(cache):
    (cache.path / "index.h5").write_bytes(random.Random(0).randbytes(5000))


def no_index(cache):
    (cache.path / "index.h5").unlink()


@pytest.fixture(scope="module")
def before_the_loss(network, manifest, undisturbed, tmp_path_factory):
    """A cache of all but the last eight files, in shards of 16 rows."""
    extractor = with_cache(network, tmp_path_factory.mktemp("before"))
    in_child(extract, extractor, manifest.select(range(len(manifest) - 8)), shard_bytes=SHARD_BYTES)
    return extractor.taps[0].cache


@pytest.mark.parametrize(
    "leave",
    [
        a_temporary_file,
        an_empty_shard,
        a_shard_that_is_cut_off,
        rejections_that_are_cut_off,
        a_spec_that_is_cut_off,
        a_torn_index,
        garbage_for_an_index,
        no_index,
    ],
)
def test_after_a_loss_of_power_what_is_broken_is_moved_aside_and_redone(
    leave, before_the_loss, extractor, manifest, undisturbed
):
    cache = extractor.taps[0].cache
    shutil.copytree(before_the_loss.root, cache.root)
    extracted_before = manifest.select(range(len(manifest) - 8))
    broken = leave(cache)
    missing = cache.missing(extracted_before.keys)
    assert len(missing) == {an_empty_shard: 16, a_shard_that_is_cut_off: 16}.get(leave, len(missing) and 2)
    assert [path.name for path in cache.damaged] == ([broken.name] if broken else [])
    assert len(cache.warnings) == len(cache.damaged)
    assert all(str(broken) in note for note in cache.warnings)
    in_child(extract, extractor, manifest)
    check_undisturbed(extractor, manifest, undisturbed)
    assert b"feature-cache" in (cache.path / "spec.json").read_bytes()


# A full disk


def extract_without_room(extractor, manifest, limit, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        extract(extractor, manifest, shard_bytes=SHARD_BYTES)
    except CacheError as error:
        said.send(str(error))
        sys.exit(error.exit_code)


@pytest.mark.parametrize("limit", [0, 300, 30_000], ids=["not a byte", "not the spec", "not a shard"])
@pytest.mark.parametrize("some", [0, 40], ids=["empty", "begun"])
def test_a_full_disk_ends_extraction_with_a_clear_error_and_it_goes_on_with_room(
    limit, some, extractor, manifest, undisturbed
):
    cache = extractor.taps[0].cache
    if some:
        in_child(extract, extractor, manifest.select(range(some)), shard_bytes=SHARD_BYTES)
    keys_before = cache.keys()
    receiver, sender = FORK.Pipe(duplex=False)
    process = start(extract_without_room, extractor, manifest, limit, sender)
    process.join()
    assert process.exitcode == 1
    assert receiver.poll()
    message = receiver.recv()
    assert "no room for" in message
    assert "bytes needed" in message
    assert "make room and run the same command again" in message
    assert set(keys_before) <= set(cache.keys())
    assert cache.verify() == cache.warnings == cache.damaged == list(cache.path.rglob("*.tmp")) == []
    in_child(extract, extractor, manifest)
    check_undisturbed(extractor, manifest, undisturbed)


# Work of others


def test_what_another_process_took_and_gave_back_undone_is_done(extractor, manifest, undisturbed):
    """A process that has done all that was free comes back for what was not."""
    cache = extractor.taps[0].cache
    block = [manifest.keys[index] for index in content_defined_blocks(manifest.keys)[0]]
    with cache.leases() as leases:
        assert leases.acquire(block[-1])
        process = start(extract, extractor, manifest, shard_seconds=0.1)
        while set(cache.missing(manifest.keys)) != set(block):
            assert process.is_alive()
            time.sleep(0.01)
    process.join()
    assert process.exitcode == 0
    check_undisturbed(extractor, manifest, undisturbed)


def test_a_spec_that_is_gone_is_written_again_though_nothing_is_to_be_extracted(extractor, manifest):
    in_child(extract, extractor, manifest)
    (tap,) = extractor.taps
    document = tap.cache.path / "spec.json"
    written = document.read_bytes()
    document.write_text("{")
    in_child(extract, extractor, manifest)
    assert document.read_bytes() == written


def test_a_damaged_row_is_extracted_again_when_it_was_dropped(extractor, manifest, undisturbed):
    cache = extractor.taps[0].cache
    in_child(extract, extractor, manifest, shard_bytes=SHARD_BYTES)
    shard = cache.shards[2]
    with shard.path.open("r+b") as file, h5py.File(shard.path, locking=False) as hdf5:
        key = hdf5["keys"][3].decode()
        file.seek(hdf5["features"].id.get_offset() + 3 * shard.row_bytes + 100)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(CacheError, match=f"row 3 of {shard.path} .{key}"):
        cache.read([key])
    assert cache.repair() == [(shard.path.name, 3, key, 0)]
    in_child(extract, extractor, manifest)
    check_undisturbed(extractor, manifest, undisturbed)


# Loaders of batches


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_on_while_another_process_writes(method, extractor, manifest, undisturbed):
    cache = extractor.taps[0].cache
    in_child(extract, extractor, manifest.select(range(40)), shard_bytes=SHARD_BYTES)
    keys = drop_unreadable(extractor, manifest).keys
    numbers: list[list[int]] = []
    loader = DataLoader(
        CachedRows(cache, keys),
        batch_sampler=numbers,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )

    def all_that_is_there() -> list[int]:
        missing = set(cache.missing(keys))
        present = [number for number, key in enumerate(keys) if key not in missing]
        numbers[:] = [present[start : start + 16] for start in range(0, len(present), 16)]
        assert torch.cat(list(loader)).numpy().tobytes() == undisturbed[present].tobytes()
        return present

    assert len(all_that_is_there()) == 38  # the workers have opened the cache
    writing = start(extract, extractor, manifest, shard_bytes=SHARD_BYTES // 2)
    while writing.is_alive():
        all_that_is_there()
    assert writing.exitcode == 0
    assert len(all_that_is_there()) == len(keys) == 90

"""Several processes, killed or not, fill one cache: nothing twice, nothing lost, every bit as from one process."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache import key_of_bytes
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import _POLL_SECONDS, extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.extraction.work_queue import LeasedBlocks, content_defined_blocks, missing_rows
from stages.runtime.progress import json_log
from tests.photographs import make_folder

IMAGES = 360


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("many") / "images", per_class=IMAGES // 3)
    return load_manifest(DataConfig(str(folder)))


@pytest.fixture
def features(tmp_path):
    """On the CPU, of which every bit is claimed, and which a forked process may use whatever its parent has used."""
    return FeatureConfig(device="cpu", image_size=32, cache=tmp_path / "cache", extract_batch_size=8, decode_threads=1)


@pytest.fixture(scope="module")
def undisturbed(manifest, tmp_path_factory):
    """What one process that nobody disturbs extracts."""
    extractor = build_extractor(
        FeatureConfig(
            device="cpu",
            image_size=32,
            cache=tmp_path_factory.mktemp("undisturbed"),
            extract_batch_size=8,
            decode_threads=1,
        )
    )
    extract(extractor, manifest)
    return read_features(extractor, manifest)


def stored_rows(extractor) -> int:
    """Rows on disk, one that is there twice counted twice."""
    return sum(shard.rows for shard in extractor.taps[0].cache.shards)


def shard_files(extractor) -> int:
    return len([*extractor.taps[0].cache.path.glob("shards/*.h5")])


def extract_in_process(extractor, manifest, shard_seconds, results):
    torch.set_num_threads(1)
    report = extract(extractor, manifest, shard_seconds=shard_seconds)
    results.put((report.extracted, report.extracted_by_others, report.hits))


def start(extractor, manifest, shard_seconds=0.2, results=None):
    process = multiprocessing.get_context("fork").Process(
        target=extract_in_process,
        args=(extractor, manifest, shard_seconds, results or multiprocessing.get_context("fork").SimpleQueue()),
    )
    process.start()
    return process


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_at_once_share_the_work_and_do_nothing_twice(manifest, features, undisturbed, processes):
    extractor = build_extractor(features)
    results = multiprocessing.get_context("fork").SimpleQueue()
    running = [start(extractor, manifest, results=results) for _ in range(processes)]
    reports = [results.get() for _ in running]
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert sum(extracted for extracted, _, _ in reports) == IMAGES
    assert sum(extracted > 0 for extracted, _, _ in reports) >= 2
    assert all(extracted + elsewhere + hits == IMAGES for extracted, elsewhere, hits in reports)
    assert stored_rows(extractor) == IMAGES
    assert np.array_equal(read_features(extractor, manifest), undisturbed)
    assert not extractor.taps[0].cache.verify()
    assert not list((extractor.taps[0].cache.path / "claims").iterdir())


def hold_and_fill_slowly(extractor, manifest, rows, holding):
    """Take all images, write rows of every third one, then of another third, and at last of the rest."""
    locations, keys = manifest.distinct_images
    blocks = content_defined_blocks(keys)
    places = dict(zip(manifest.keys, range(len(rows)), strict=True))
    with LeasedBlocks(extractor, keys, locations) as work, extractor.taps[0].cache.writer() as writer:
        assert len(list(work.requests(blocks, []))) == IMAGES
        for third in range(3):
            part = keys[third::3]
            writer.append(part, rows[[places[key] for key in part]])
            writer.flush()
            holding.set()
            time.sleep(3 * _POLL_SECONDS)


def test_what_others_do_counts_as_done_once_however_often_it_is_looked_for(manifest, features, undisturbed, tmp_path):
    extractor, forked = build_extractor(features), multiprocessing.get_context("fork")
    holding = forked.Event()
    other = forked.Process(target=hold_and_fill_slowly, args=(extractor, manifest, undisturbed, holding))
    other.start()
    assert holding.wait(60)
    with json_log(tmp_path / "events.jsonl"):
        report = extract(extractor, manifest)
    other.join()
    assert other.exitcode == 0
    assert report.extracted == 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [event["done"] for event in events if event.get("what") == "extract"]
    assert {event["total"] for event in events if event.get("what") == "extract"} == {2 * IMAGES // 3}
    assert told[-1] == 2 * IMAGES // 3


def test_killed_again_and_again_it_ends_with_the_same_bits(manifest, features, undisturbed):
    """At any moment, and just after something was done; the same is done 200 times by benchmarks/faults.py."""
    extractor = build_extractor(features)
    manifest = manifest.select(range(240))
    chance = random.Random(0)
    kills = 0
    rows = 0
    while extractor.taps[0].cache.missing(manifest.keys):
        process = start(extractor, manifest, shard_seconds=0.05)
        if kills % 2:
            process.join(chance.uniform(0.05, 0.35))
        else:  # so that it comes to an end on a busy machine, too
            before = shard_files(extractor)
            while process.is_alive() and shard_files(extractor) == before:
                time.sleep(0.005)
            process.join(chance.uniform(0, 0.05))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        opened = build_extractor(features).taps[0].cache  # as a process that comes later
        assert len(opened) >= rows
        rows = len(opened)
        assert not opened.warnings
        assert kills < 100
    assert kills >= 3
    assert np.array_equal(read_features(extractor, manifest), undisturbed[:240])
    assert stored_rows(extractor) == 240


def test_one_of_three_is_killed_and_the_others_do_its_work(manifest, features, undisturbed):
    extractor = build_extractor(features)
    results = multiprocessing.get_context("fork").SimpleQueue()
    running = [start(extractor, manifest, results=results) for _ in range(3)]
    while not len(extractor.taps[0].cache):
        time.sleep(0.01)
    os.kill(running[0].pid, signal.SIGKILL)
    for process in running:
        process.join()
    assert [process.exitcode for process in running[1:]] == [0, 0]
    assert np.array_equal(read_features(extractor, manifest), undisturbed)
    assert stored_rows(extractor) == IMAGES


def test_features_do_not_depend_on_which_images_share_a_batch(manifest, features, undisturbed, tmp_path):
    extractor = build_extractor(replace(features, cache=tmp_path / "another"))
    order = np.random.default_rng(0).permutation(len(manifest.keys))
    for indices in np.array_split(order, 5):
        extract(extractor, manifest.select(indices.tolist()))
    assert np.array_equal(read_features(extractor, manifest), undisturbed)


@pytest.mark.parametrize("count", [1, 100, 3_000, 40_000])
def test_blocks_keep_all_keys_in_order_and_change_only_where_the_list_does(count):
    keys = [key_of_bytes(str(index).encode()) for index in range(count)]
    blocks = content_defined_blocks(keys)
    assert [keys[index] for block in blocks for index in block] == keys
    assert all(blocks)
    if count > 1000:
        more = [*keys[:500], key_of_bytes(b"new"), *keys[500:]]
        changed = {tuple(keys[index] for index in block) for block in blocks}
        changed -= {tuple(more[index] for index in block) for block in content_defined_blocks(more)}
        assert len(changed) <= 1
        assert 10 <= len(keys) / len(blocks) <= 600


def test_what_is_lacking_is_told_by_view_and_cut(manifest, features):
    subset = manifest.select(range(6))
    extract(build_extractor(features), subset.select(range(4)))
    more = build_extractor(replace(features, cut="blocks.2,auto", views=2))
    lacking = missing_rows(more, subset.keys)
    assert list(lacking) == list(subset.keys)
    assert lacking[subset.keys[0]].rows == {(0, 0), (0, 1), (1, 1)}
    assert lacking[subset.keys[5]].rows == {(0, 0), (0, 1), (1, 0), (1, 1)}
    extract(more, subset)
    assert missing_rows(more, subset.keys) == {}

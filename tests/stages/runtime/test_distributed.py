"""Ranks that torchrun starts, with gloo, on this machine's processor."""

import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torch.distributed import HashStore

from cache.errors import CutonceError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.runtime import distributed
from stages.runtime.distributed import SINGLE_PROCESS, Rank, process_group, rendezvous_name
from tests.photographs import make_folder
from tests.ready_processes import run, torchrun

IMAGES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("ranks") / "images", per_class=IMAGES // 3)


@pytest.fixture(scope="module")
def from_one_process(folder, tmp_path_factory):
    extractor = build_extractor(
        FeatureConfig(image_size=32, cache=tmp_path_factory.mktemp("one"), extract_batch_size=8, decode_threads=1)
    )
    manifest = load_manifest(DataConfig(str(folder)))
    extract(extractor, manifest)
    return read_features(extractor, manifest)


def counts_by_rank(said):
    """Of each rank: how many images it extracted, how many others did, and how many were there."""
    return [tuple(map(int, found)) for found in re.findall(r"rank \d of \d: (\d+) \+ (\d+) \+ (\d+)", said)]


def check(folder, cache, expected):
    extractor = build_extractor(FeatureConfig(image_size=32, cache=cache, extract_batch_size=8, decode_threads=1))
    assert np.array_equal(read_features(extractor, load_manifest(DataConfig(str(folder)))), expected)
    store = extractor.taps[0].cache
    assert sum(shard.rows for shard in store.shards) == IMAGES
    assert (store.path / "index.h5").exists()


def test_a_killed_rank_is_restarted_and_only_what_is_missing_is_done(folder, tmp_path, from_one_process):
    ended = torchrun(2, "tests/stages/rank.py", folder, tmp_path, "1", restarts=1)
    assert ended.returncode == 0, ended.stderr
    (_, _, hits), _ = counts_by_rank(ended.stdout)
    assert hits > 0
    check(folder, tmp_path, from_one_process)


def test_a_killed_job_goes_on_with_another_number_of_ranks_that_split_what_is_missing(
    folder, tmp_path, from_one_process
):
    assert torchrun(2, "tests/stages/rank.py", folder, tmp_path, "0").returncode != 0
    ended = torchrun(3, "tests/stages/rank.py", folder, tmp_path, "none")
    assert ended.returncode == 0, ended.stderr
    extracted, _, hits = zip(*counts_by_rank(ended.stdout), strict=True)
    assert len(extracted) == 3
    assert min(extracted) > 0
    assert sum(extracted) + hits[0] == IMAGES
    assert 0 < hits[0] < IMAGES
    check(folder, tmp_path, from_one_process)


@pytest.mark.parametrize("first_to_come", [0, 1, 2])
def test_processes_meet_whatever_earlier_lives_left_in_the_store(first_to_come):
    store = HashStore()
    names = []
    for _ in range(3):  # each life finds the names, calls and answers of the one before
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(rendezvous_name, store, first_to_come, 3)
            time.sleep(0.3)
            futures = [pool.submit(rendezvous_name, store, index, 3) for index in range(3) if index != first_to_come]
            names.append({life.result(timeout=30) for life in (first, *futures)})
    assert [len(agreed) for agreed in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_the_command_runs_under_torchrun_says_everything_once_and_the_result_is_that_of_one_process(
    folder, tmp_path, from_one_process
):
    options = ["--image-size", "32", "--cache", tmp_path / "cache", "--extract-batch-size", "8"]
    ended = torchrun(2, "-m", "pipeline", "extract", "--data", folder, *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("300 samples") <= 1
    assert len(re.findall(r"extracted \d+ images", ended.stdout)) == 1
    check(folder, tmp_path / "cache", from_one_process)


def test_other_commands_are_refused_under_torchrun(folder, tmp_path):
    command = ("-m", "pipeline", "train", "--data", folder, "--out", tmp_path / "run")
    ended = run(*command, env={**os.environ, "WORLD_SIZE": "2"})
    assert ended.returncode == 2
    assert "of all commands only `extract` and `finetune` share their work" in ended.stderr


def test_alone_there_is_nobody_to_meet():
    with process_group() as rank:
        assert rank == SINGLE_PROCESS
        assert rank.is_main
        assert rank.broadcast_from_first(lambda: 5) == 5
        rank.barrier()
        assert rank.device("auto") == "auto"


def test_gpus_are_dealt_out_among_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    taken = []
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    assert [Rank(index, 8, index % 4).device("auto") for index in range(5)] == [
        "cuda:0",
        "cuda:1",
        "cuda:2",
        "cuda:3",
        "cuda:0",
    ]
    assert taken == [0, 1, 2, 3, 0]  # what names no device goes to the process's own
    assert Rank(1, 8, 1).device("cpu") == "cpu"
    assert Rank(1, 8, 1).device("cuda:3") == "cuda:3"
    assert SINGLE_PROCESS.device("auto") == "auto"
    assert len(taken) == 5


@pytest.mark.parametrize(("gpus", "backend"), [((2, 1), "cpu:gloo,cuda:nccl"), ((1, 1), "gloo"), ((2, 0), "gloo")])
def test_nccl_carries_gradients_where_each_process_has_a_gpu_of_its_own(monkeypatch, gpus, backend):
    """Two processes on the first machine and one on the second, which have so many GPUs."""
    asking = threading.local()
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: asking.gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: asking.gpus)
    store = HashStore()

    def ask(rank, machine):
        asking.gpus = gpus[machine]
        return distributed._backend(rank, store)

    with ThreadPoolExecutor(3) as pool:
        processes = [(Rank(0, 3, 0), 0), (Rank(1, 3, 1), 0), (Rank(2, 3, 0), 1)]
        assert {*pool.map(ask, *zip(*processes, strict=True))} == {backend}


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (
            "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer",
            CutonceError,
            "process 0 of 1 stops.*another",
        ),
        ("shapes do not match", RuntimeError, "shapes"),
    ],
)
def test_who_waits_for_a_process_that_has_ended_says_that_alone(monkeypatch, raised, error, message):
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "rendezvous", lambda *_, **__: iter([(HashStore(), 0, 1)]))
    with pytest.raises(error, match=message), process_group():
        raise RuntimeError(raised)

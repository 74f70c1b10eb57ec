"""The library where libraries are called: in notebooks, in threads, in the processes of others."""

import asyncio
import faulthandler
import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.library.backbones import backbone_from_module
from pipeline.library.estimators import FeatureExtractor, TransferClassifier
from pipeline.library.finetuning import finetune
from pipeline.library.functions import features
from tests.own_network import OwnNetwork
from tests.photographs import COLOURS, photograph
from tests.ready_processes import pretend_as_the_tests_do

SIZE = 64
PICTURES = [np.asarray(photograph(colour, seed, 40)) for seed in range(4) for colour in COLOURS.values()]
LABELS = list(COLOURS) * 4


@pytest.fixture(scope="module")
def expected():
    return features(PICTURES, image_size=SIZE, batch_size=4)


def test_within_a_running_event_loop_as_in_a_notebook(expected):
    async def cell():
        return features(PICTURES, image_size=SIZE, batch_size=4)

    assert np.array_equal(asyncio.run(cell()), expected)


@pytest.mark.parametrize("kept", [False, True])
def test_in_threads_at_once(expected, kept, tmp_path):
    ask = partial(features, image_size=SIZE, batch_size=4, cache=tmp_path if kept else None)
    with ThreadPoolExecutor(3) as threads:
        parts = list(threads.map(ask, [PICTURES, PICTURES[::-1], PICTURES[::2]]))
    assert np.array_equal(parts[0], expected)
    assert np.array_equal(parts[1], expected[::-1])
    assert np.array_equal(parts[2], expected[::2])


@pytest.fixture(scope="module")
def spawned():
    """A pool of two processes, which may have no children, and each of which imports torch."""
    with multiprocessing.get_context("spawn").Pool(2, pretend_as_the_tests_do) as pool:
        yield pool


def test_in_spawned_processes_that_share_a_cache(expected, spawned, tmp_path):
    ask = partial(features, image_size=SIZE, batch_size=4, cache=tmp_path)
    parts = spawned.map(ask, [PICTURES, PICTURES[::-1]], chunksize=1)
    assert np.array_equal(parts[0], expected)
    assert np.array_equal(parts[1], expected[::-1])


def tuned_losses(_):
    quick = {"image_size": 32, "unfreeze": "head", "epochs": 1, "finetune_batch_size": 4, "init_head": "ncm"}
    return [epoch.val_loss for epoch in finetune(PICTURES, LABELS, **quick).history]


def test_fine_tuning_works_in_a_pool_whose_workers_may_have_no_children(spawned):
    assert spawned.apply(tuned_losses, [0]) == pytest.approx(tuned_losses(0), rel=1e-4)


def work_in_child(folder):
    """What computes, for a network and a head that are not there yet."""
    rows = features(PICTURES, image_size=SIZE, batch_size=4, cut="blocks.3", cache=folder)
    classifier = TransferClassifier("ridge", random_state=0).fit(rows, LABELS)
    extractor = FeatureExtractor(backbone_from_module(OwnNetwork(), image_size=SIZE), cut="features")
    return rows, classifier.predict_proba(rows), extractor.transform(PICTURES)


def told_of_child(folder):
    """Write down what a child computes, and where it stands and falls, if it does."""
    with (folder / "stacks.txt").open("w") as stacks:
        faulthandler.enable(stacks)
        faulthandler.dump_traceback_later(240, file=stacks)
        np.savez(folder / "computed.npz", *work_in_child(folder))
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()


def compute_and_fork(folder):
    """Compute on several threads, fork, and end as the child does; in a process that has done nothing else."""
    pretend_as_the_tests_do()
    torch.nn.functional.conv2d(torch.randn(16, 3, 64, 64), torch.randn(64, 3, 3, 3))
    child = multiprocessing.get_context("fork").Process(target=told_of_child, args=[folder])
    child.start()
    child.join(300)
    child.kill()
    child.join()
    sys.exit(0 if child.exitcode == 0 else f"the child ended with {child.exitcode}")


def test_in_processes_forked_from_one_that_computed(tmp_path):
    """Of OpenMP's threads a fork has none, and waits for them: without help this stands still for ever."""
    script = (
        f"from {__name__} import compute_and_fork; from pathlib import Path; compute_and_fork(Path({str(tmp_path)!r}))"
    )
    ended = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr + (tmp_path / "stacks.txt").read_text()
    with np.load(tmp_path / "computed.npz") as computed:
        forked = list(computed.values())
    assert all(np.array_equal(theirs, ours) for theirs, ours in zip(forked, work_in_child(None), strict=True))


def test_heads_that_train_in_threads_at_once_are_those_that_train_alone(expected):
    """Torch has one random state in a process, and threads that drew from it at once had each other's numbers."""

    def trained(seed):
        return TransferClassifier("mlp", random_state=seed, device="cpu").fit(expected, LABELS).predict_proba(expected)

    alone = [trained(seed) for seed in range(3)]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(trained, [0, 1, 2, 0, 1, 2]))
    assert all(np.array_equal(found, wanted) for found, wanted in zip(at_once, alone * 2, strict=True))
    assert torch.equal(torch.get_rng_state(), before)

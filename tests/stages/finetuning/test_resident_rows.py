"""Cached rows beside a GPU: the same batches as from the files, and no file is read for them any more."""

import logging
from dataclasses import replace

import psutil
import pytest
import torch

from cache.feature_cache import FeatureCache
from stages.data.augment.mixup import MixupCutmix
from stages.finetuning import resident_rows
from stages.finetuning.cached_batches import CachedBatches, boundary_extractor, extract_views
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.resident_rows import ResidentRows, find_place, row_bytes
from stages.finetuning.transfer_model import build_transfer_model
from tests.stages.finetuning.test_cached_batches import OPTIONS

CUDA = torch.device("cuda")
VIEWS = 3


@pytest.fixture
def filled(probe, tmp_path):
    """The problem, and the extractor of its cached views, which are there."""
    options = replace(probe.extractor.options, views=VIEWS, augment="medium", cache=tmp_path / "cache")
    extractor = replace(probe.extractor, options=options)
    maps = boundary_extractor(extractor, build_transfer_model(extractor, probe.head, OPTIONS))
    problem = FinetuneProblem(extractor, probe.manifest, probe.head, OPTIONS, 1)
    extract_views(maps, problem.train, problem.val)
    return problem, maps


def shown(source, epoch):
    """Return the batches of an epoch and of the validation, on the CPU."""
    return [
        (inputs.cpu(), targets.cpu())
        for batches in (source.train(epoch, 0), source.val())
        for inputs, targets in batches
    ]


def nothing_is_free(monkeypatch, device, *, beside):
    """Let the device, and the memory beside it where that is asked for, have no room."""
    device.free = 0
    if beside:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))


@pytest.mark.parametrize("place", ["device", "host", "files"])
def test_batches_are_those_of_the_files_wherever_rows_are_kept(filled, pretended_cuda, monkeypatch, caplog, place):
    problem, maps = filled
    expected = [shown(CachedBatches(problem, maps), epoch) for epoch in (1, 2)]
    if place != "device":
        nothing_is_free(monkeypatch, pretended_cuda, beside=place == "files")
    with caplog.at_level(logging.INFO, "cutonce"):
        source = CachedBatches(problem, replace(maps, device=CUDA))
    if place != "files":

        def nobody(*_):
            raise AssertionError("a file was read")

        monkeypatch.setattr(FeatureCache, "read", nobody)
    words = {
        "device": "are kept on cuda",
        "host": "in memory beside it",
        "files": "each batch is read from the cache",
    }
    assert all(words[place] in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2
    for epoch, batches in enumerate(expected, 1):
        for (inputs, targets), (other, other_targets) in zip(batches, shown(source, epoch), strict=True):
            assert torch.equal(inputs, other)
            assert torch.equal(targets, other_targets)


@pytest.mark.parametrize("mixing", [None, MixupCutmix(0.4, 1.0)], ids=["as they are", "mixed"])
@pytest.mark.parametrize("place", ["device", "host"])
def test_batches_of_rows_at_hand_never_wait_for_the_gpu(filled, pretended_cuda, monkeypatch, place, mixing):
    problem, maps = filled
    if place == "host":
        nothing_is_free(monkeypatch, pretended_cuda, beside=False)
    source = CachedBatches(problem, replace(maps, device=CUDA), mixing)
    before = pretended_cuda.synchronizations
    batches = [*source.train(1, 0), *source.val()]
    assert pretended_cuda.synchronizations == before
    assert all(inputs.device.type == "cuda" and inputs.dtype == torch.float32 for inputs, _ in batches)
    assert all(inputs.is_contiguous(memory_format=torch.channels_last) for inputs, _ in batches)


def test_rows_lie_in_the_type_in_which_they_are_stored(filled):
    problem, maps = filled
    tap, keys = maps.taps[0], problem.train.keys
    resident = ResidentRows(tap, [*keys, keys[0]], VIEWS, torch.device("cpu"))
    found = resident.rows([keys[2], keys[0], keys[2]], [1, 0, 2])
    assert found.dtype == torch.from_numpy(tap.cache.read(keys[:1])).dtype
    for row, (key, view) in zip(found, ((keys[2], 1), (keys[0], 0), (keys[2], 2)), strict=True):
        assert torch.equal(row, torch.from_numpy(tap.cache_of_view(view).read([key], view))[0])
    assert resident._rows.nbytes == VIEWS * len(keys) * row_bytes(tap)


def test_rows_are_read_in_blocks(filled, monkeypatch):
    problem, maps = filled
    tap, keys = maps.taps[0], problem.train.keys
    monkeypatch.setattr(resident_rows, "_BLOCK_BYTES", 5 * row_bytes(tap))
    resident = ResidentRows(tap, keys, 2, torch.device("cpu"))
    for view in range(2):
        expected = torch.from_numpy(tap.cache_of_view(view).read(keys, view))
        assert torch.equal(resident.rows(keys, [view] * len(keys)), expected)


def test_processes_that_train_together_share_the_memory_beside_their_gpus(pretended_cuda, monkeypatch):
    pretended_cuda.free = 0
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8000}))
    assert [find_place(1000, CUDA, sharing) for sharing in (1, 4, 5)] == ["host", "host", "files"]

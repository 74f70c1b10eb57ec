import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cache.atomic_write import host_name
from cache.errors import CutonceError, UsageError
from stages.training.checkpoint import CheckpointFile
from tests.pretended_cuda import DeviceError
from tests.stages.training.blobs import same, small_network, train_blobs


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    train_blobs(small_network(), 2, checkpoint=checkpoint, identity={"rate": 0.1, "unfreeze": "layer4"})
    expected_message = (
        r"lr was 0.1 and is 0.2; reinit was nothing and is layer3; unfreeze was layer4 and is nothing\. .*delete"
    )
    with pytest.raises(UsageError, match=expected_message):
        train_blobs(small_network(), 2, checkpoint=checkpoint, identity={"rate": 0.2, "reinit": "layer3"})
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_ema_decay": 0.9}, "model_ema_decay was None and is 0.9"),
        ({"grad_accum_steps": 2}, "grad_accum_steps was 1 and is 2"),
    ],
)
def test_the_options_of_the_training_belong_to_what_must_not_differ(tmp_path, options, said):
    train_blobs(small_network(), 1, checkpoint=tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=said):
        train_blobs(small_network(), 1, checkpoint=tmp_path / "checkpoint.pt", options=options)
    train_blobs(small_network(), 1, checkpoint=tmp_path / "checkpoint.pt", options={"checkpoint_seconds": 1.0})


def test_a_checkpoint_of_a_version_with_other_options_and_names_is_gone_on_from(tmp_path):
    class StopError(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 2:
            raise StopError

    whole, checkpoint = small_network(), tmp_path / "checkpoint.pt"
    undisturbed = train_blobs(whole, 3)
    with pytest.raises(StopError):
        train_blobs(small_network(), 3, checkpoint=checkpoint, on_epoch=stop)
    saved = torch.load(checkpoint, weights_only=True)
    saved["identity"]["class_weights"] = None  # an option of then, which was not given
    saved["state"]["tally"] = {"terms": {}, "correct": 0.0, "count": 0}
    assert {"train_accuracy", "val_accuracy", "rate", "rates"} < set(saved["state"]["history"][0])
    torch.save(saved, checkpoint)
    resumed = small_network()
    histories = [result.history for result in (undisturbed, train_blobs(resumed, 3, checkpoint=checkpoint))]
    scores = [[(epoch.train_score, epoch.val_score, epoch.lr) for epoch in history] for history in histories]
    assert scores[0] == scores[1]
    assert same(whole, resumed)


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_damaged_checkpoint_is_named(tmp_path, keep):
    checkpoint = tmp_path / "checkpoint.pt"
    train_blobs(small_network(), 1, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(CutonceError, match=r"checkpoint\.pt is damaged"):
        train_blobs(small_network(), 1, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [{"identity": "a", "model": {}}, [1, 2]])
def test_a_checkpoint_that_is_none_of_ours_is_named(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(CutonceError, match=r"checkpoint\.pt (was made by another version|is damaged)"):
        train_blobs(small_network(), 1, checkpoint=tmp_path / "checkpoint.pt")


@pytest.fixture
def full_disk():
    """Files that this process writes cannot get longer than 10,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_the_former_checkpoint_stays(tmp_path, full_disk):
    checkpoints = CheckpointFile(tmp_path / "checkpoint.pt", {}, 0.0)
    checkpoints.save({"step": 1})
    with pytest.raises(CutonceError, match=r"checkpoint\.pt cannot be written"):
        checkpoints.save({"step": 2, "weights": torch.zeros(100_000)})
    assert checkpoints.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("write", [1, 2, 3])
def test_an_interrupt_while_it_is_written_does_not_pass_for_a_full_disk(tmp_path, monkeypatch, write):
    class Interrupted(io.FileIO):
        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes == write:
                signal.raise_signal(signal.SIGINT)
            return super().write(data)

    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt", {}, 0.0)
    checkpoint.save({"weights": torch.ones(4)})
    monkeypatch.setattr(Path, "open", lambda path, mode: Interrupted(path, mode))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background is begun without
    try:
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save({"weights": torch.zeros(100_000)})
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.equal(checkpoint.load()["weights"], torch.ones(4))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_place_that_is_none_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CutonceError, match="cannot be written"):
        CheckpointFile(tmp_path / "file" / "checkpoint.pt", {}, 0.0).save({})


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    leftover = tmp_path / f"{host_name()}-{killed.pid}-0123456789abcdef.tmp"
    leftover.write_bytes(b"half of it")
    os.utime(leftover, (time.time() - 120,) * 2)
    checkpoints = CheckpointFile(tmp_path / "checkpoint.pt", {}, 0.0)
    assert checkpoints.load() is None
    checkpoints.save({"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_device_that_is_lost_while_it_is_saved_does_not_pass_for_a_full_disk(tmp_path):
    class OnLostDevice:
        def __reduce__(self):
            raise DeviceError("CUDA error: unspecified launch failure")

    file = CheckpointFile(tmp_path / "checkpoint.pt", {}, 0.0)
    file.save({"place": 1})
    with pytest.raises(DeviceError):
        file.save({"place": 2, "weights": OnLostDevice()})
    assert file.load() == {"place": 1}

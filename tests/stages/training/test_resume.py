"""kill -9 in the middle of epochs, again and again, and the same command: the weights are those of an undisturbed run."""

import os
import random
import signal
import time

import torch

from tests import ready_processes
from tests.stages.training.killed import BATCHES, EPOCHS

KILLS = 2


def start(*arguments):
    return ready_processes.start("-m", "tests.stages.training.killed", *arguments)


def finish(process):
    completed = process.finish()
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.splitlines()


def test_a_training_killed_at_any_step_ends_with_the_same_weights(tmp_path):
    undisturbed = start(tmp_path / "whole.pt", tmp_path / "whole.weights")
    steps = []
    moments = sorted(random.Random().sample(range(2, BATCHES * EPOCHS - 2), KILLS))
    for after in moments:
        process = start(tmp_path / "killed.pt", tmp_path / "killed.weights")
        while len(steps) + process.said().count("\n") < after and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        killed = process.finish()
        assert killed.returncode == -signal.SIGKILL, "the process ended before it was killed"
        steps += killed.stdout.splitlines()
    steps += finish(start(tmp_path / "killed.pt", tmp_path / "killed.weights"))
    whole = finish(undisturbed)
    assert len(whole) == BATCHES * EPOCHS
    assert set(steps) == set(whole)
    assert len(steps) <= len(whole) + 3 * KILLS, "steps were made again that a checkpoint had"
    weights, states = (
        [torch.load(tmp_path / f"{name}{end}", weights_only=True) for name in ("whole", "killed")]
        for end in (".weights", ".pt")
    )
    assert same(*weights), f"killed after batches {moments}"
    for part in ("model", "average", "optimiser", "scheduler"):
        assert same(*(state["state"][part] for state in states)), part
    validated = [[(row["val_loss"], row["train_loss"]) for row in state["state"]["history"]] for state in states]
    assert validated[0] == validated[1]
    assert min(loss for loss, _ in validated[0][1:]) < validated[0][0][0], "there was nothing to lose: it never learned"


def same(one, other):
    """Whether two nestings of tensors and plain values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other

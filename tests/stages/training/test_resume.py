"""kill -9 in the middle of epochs, again and again, and the same command: the weights are those of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import torch

from tests.stages.training.killed import BATCHES, EPOCHS

ROOT = Path(__file__).parents[3]
KILLS = 2


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stages.training.killed", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.split("\n")[:-1]


def test_a_training_killed_at_any_step_ends_with_the_same_weights(tmp_path):
    undisturbed = start(tmp_path / "whole.pt", tmp_path / "whole.weights")
    steps = []
    moments = sorted(random.Random().sample(range(2, BATCHES * EPOCHS - 2), KILLS))
    for after in moments:
        process = start(tmp_path / "killed.pt", tmp_path / "killed.weights")
        while len(steps) < after and (line := process.stdout.readline()):
            steps.append(line.strip())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the process ended before it was killed"
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

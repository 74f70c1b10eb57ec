"""What is read of a GPU while it trains, and when: counted on a pretended one, on which every read is counted."""

import math

import pytest
import torch

from cache.errors import CutonceError, UsageError
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.training import outcomes
from stages.training.config import TrainConfig
from stages.training.evaluation import evaluate_loss, predict
from stages.training.optim import create_optimizer, parameter_groups
from stages.training.outcomes import Outcome, copied_together, on_host
from stages.training.train_step import TrainStep
from tests.stages.training.blobs import BATCHES, CLASSES, TASK, TRAIN, VAL, batches_of, small_network, train_blobs

CUDA = torch.device("cuda")


def stepping(task=TASK, name="adamw", out_features=CLASSES, **options):
    """Return a step on the pretended device."""
    model = small_network(normalized=False)
    model[-1] = torch.nn.Linear(16, out_features)
    model.to(CUDA).train()
    groups = parameter_groups(model, [("all", [child for child, _ in model.named_children()], 1e-3)], 0.01)
    return TrainStep(model, create_optimizer(name, groups), TrainConfig(1, **options), task)


def reads_of(device, steps, batches, step):
    """Return how often the host waited for the device in so many steps, whose batches are there already."""
    inputs, targets = (part.to(CUDA) for part in batches)
    before = device.synchronizations
    known = [metrics for number in range(steps) for metrics in step.take([(inputs, targets)], number)]
    return device.synchronizations - before, known


NUMBERS = TRAIN[0][:, :1].double()
SETTINGS = [
    ("adamw", {}),
    ("adamw", {"amp_dtype": "bf16", "clip_grad": 1.0, "l1": 1e-4}),
    ("adamw", {"amp_dtype": "fp16", "clip_grad": 1.0}),
    ("adam", {"amp_dtype": "fp16"}),
    ("sgd", {"amp_dtype": "bf16"}),
    ("momentum", {}),
]


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_no_step_waits_for_the_gpu_until_many_are_read_together(pretended_cuda, name, options):
    step = stepping(name=name, **options)
    step.take([(TRAIN[0][:40], TRAIN[1][:40])], 0)  # the first makes the optimizer's state
    step.outstanding()
    steps = outcomes.BATCHES_AT_ONCE
    waits, known = reads_of(pretended_cuda, steps - 1, (TRAIN[0][:40], TRAIN[1][:40]), step)
    assert (waits, known) == (0, [])
    waits, known = reads_of(pretended_cuda, 1, (TRAIN[0][:40], TRAIN[1][:40]), step)
    assert 1 <= waits <= 4
    assert len(known) == steps


def test_with_scaled_gradients_an_optimizer_that_is_not_fused_is_waited_for_once_a_step(pretended_cuda):
    step = stepping(name="sgd", amp_dtype="fp16")
    step([(TRAIN[0][:40], TRAIN[1][:40])], 0)
    waits, _ = reads_of(pretended_cuda, 10, (TRAIN[0][:40], TRAIN[1][:40]), step)
    assert waits <= 10


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (Regression(("number",)), NUMBERS),
        (MultiLabel(("a", "b")), torch.stack([TRAIN[1] > 0, TRAIN[1] > 1], dim=1).float()),
    ],
    ids=["regression", "multi-label"],
)
def test_other_tasks_are_not_waited_for_either(pretended_cuda, task, targets):
    step = stepping(task, out_features=targets.shape[1])
    step([(TRAIN[0][:40], targets[:40])], 0)
    waits, _ = reads_of(pretended_cuda, 10, (TRAIN[0][:40], targets[:40]), step)
    assert waits == 0


def test_a_training_on_a_gpu_says_of_itself_what_one_on_a_cpu_says(pretended_cuda, monkeypatch):
    monkeypatch.setattr(outcomes, "BATCHES_AT_ONCE", 4)  # so that the six steps of an epoch are read in two parts
    on_cpu = train_blobs(small_network(dropout=0.0), 3)
    before = pretended_cuda.synchronizations
    on_gpu = train_blobs(small_network(dropout=0.0).to(CUDA), 3)
    for epoch, other in zip(on_cpu.history, on_gpu.history, strict=True):
        assert (epoch.val_loss, epoch.val_score) == pytest.approx((other.val_loss, other.val_score), rel=1e-4)
    for epoch, other in zip(on_cpu.history[1:], on_gpu.history[1:], strict=True):
        assert (epoch.train_loss, epoch.train_score) == pytest.approx((other.train_loss, other.train_score), rel=1e-4)
    assert on_gpu.best.epoch == on_cpu.best.epoch
    assert pretended_cuda.synchronizations - before < 3 * BATCHES * 2


def test_what_is_read_late_names_the_step_in_which_the_loss_was_lost(pretended_cuda, tmp_path):
    def bad(epoch, first):
        for number, (inputs, labels) in enumerate(batches_of(epoch, first)):
            yield (inputs * float("nan") if (epoch, number) == (2, 3) else inputs), labels

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(
        CutonceError, match=r"training loss became nan at step 4 of epoch 2.*those of epoch 1, are kept"
    ):
        train_blobs(small_network().to(CUDA), 3, train_batches=bad, checkpoint=checkpoint)
    kept = torch.load(checkpoint, weights_only=True)["state"]
    assert all(value.isfinite().all() for value in (*kept["model"].values(), *kept["best weights"].values()))


def test_a_checkpoint_in_the_middle_of_what_is_not_read_yet_holds_all_of_it(pretended_cuda, tmp_path):
    class StopError(Exception):
        pass

    def stopping(epoch, first):
        for number, batch in enumerate(batches_of(epoch, first), start=first):
            if (epoch, number, first) == (2, 4, 0):
                raise StopError
            yield batch

    options = {"checkpoint_seconds": 0.0}
    whole = train_blobs(small_network().to(CUDA), 3)
    with pytest.raises(StopError):
        train_blobs(
            small_network().to(CUDA), 3, train_batches=stopping, checkpoint=tmp_path / "state.pt", options=options
        )
    rest = train_blobs(small_network().to(CUDA), 3, checkpoint=tmp_path / "state.pt")
    assert [epoch.train_loss for epoch in rest.history] == [epoch.train_loss for epoch in whole.history]
    assert [epoch.val_loss for epoch in rest.history] == [epoch.val_loss for epoch in whole.history]


def test_validation_waits_once_for_many_batches(pretended_cuda):
    model = small_network().to(CUDA)
    batches = [(inputs.to(CUDA), labels) for inputs, labels in zip(VAL[0].split(10), VAL[1].split(10), strict=True)]
    before = pretended_cuda.synchronizations
    found = evaluate_loss(model, batches, TASK)
    assert pretended_cuda.synchronizations - before <= 4
    assert found == pytest.approx(evaluate_loss(small_network(), [VAL], TASK), rel=1e-5)
    assert all(map(math.isnan, evaluate_loss(model, [*batches, (VAL[0].to(CUDA) * math.nan, VAL[1])], TASK)))


def test_predictions_are_copied_together(pretended_cuda):
    blocks, model = list(VAL[0].split(10)), small_network().to(CUDA)
    before = pretended_cuda.synchronizations
    predicted = predict(model, blocks, TASK)
    assert pretended_cuda.synchronizations - before <= 1
    assert torch.allclose(predicted, predict(small_network(), blocks, TASK), atol=1e-6)


def test_large_outputs_do_not_wait_on_the_device(pretended_cuda, monkeypatch):
    monkeypatch.setattr(outcomes, "BYTES_AT_ONCE", 3 * 40 * CLASSES * 4)
    _, known = reads_of(pretended_cuda, 3, (TRAIN[0][:40], TRAIN[1][:40]), stepping())
    assert len(known) == 3


def test_tensors_of_several_types_come_back_as_they_were(pretended_cuda):
    given = [torch.arange(6.0).view(2, 3), torch.arange(4), torch.tensor(5.0), torch.ones(2, dtype=torch.bfloat16)]
    there = [given[0].to(CUDA), given[1].to(CUDA), given[2], given[3].to(CUDA)]
    before = pretended_cuda.synchronizations
    copied = copied_together(there)
    assert pretended_cuda.synchronizations - before <= 3
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(given, copied, strict=True))
    assert {tensor.device.type for tensor in copied} == {"cpu"}


def test_maps_are_scored_where_they_are(pretended_cuda):
    maps, masks = torch.zeros(1, 3, 4, 4).to(CUDA), torch.zeros(1, 4, 4)
    (read,) = on_host([Outcome(torch.ones(2).to(CUDA), ((maps, masks),))])
    assert read.sums.device.type == "cpu"
    assert read.outputs[0][0].device.type == "cuda"


@pytest.mark.parametrize("lost_in", [1, 2])
def test_a_gpu_that_is_lost_leaves_the_checkpoint_and_the_same_command_goes_on(pretended_cuda, tmp_path, lost_in):
    whole = train_blobs(small_network().to(CUDA), 3)
    checkpoint = tmp_path / "state.pt"

    def losing(epoch, first):
        for number, batch in enumerate(batches_of(epoch, first), start=first):
            pretended_cuda.lost = (epoch, number) == (lost_in, 4)
            yield batch

    kept = f"goes on from {checkpoint}" if lost_in > 1 else "Nothing is kept"
    with pytest.raises(
        CutonceError, match=f"cuda.* was lost in batch 5 of epoch {lost_in} .*unspecified launch.*{kept}"
    ):
        train_blobs(small_network().to(CUDA), 3, train_batches=losing, checkpoint=checkpoint)
    pretended_cuda.lost = False
    assert checkpoint.exists() == (lost_in > 1)
    rest = train_blobs(small_network().to(CUDA), 3, checkpoint=checkpoint)
    assert [epoch.val_loss for epoch in rest.history] == [epoch.val_loss for epoch in whole.history]


def test_what_torch_does_not_train_deterministically_is_said_in_words(pretended_cuda):
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 16),
        torch.nn.Unflatten(1, (1, 4, 4)),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(4, CLASSES),
    ).to(CUDA)
    train_blobs(model, 1)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UsageError, match=r"`deterministic`: .* for _adaptive_avg_pool2d_backward_cuda: leave the"):
            train_blobs(model, 1)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_that_is_lost_while_it_is_read_does_not_pass_for_a_full_disk(pretended_cuda, tmp_path):
    def losing(epoch, first):
        yield from batches_of(epoch, first)
        pretended_cuda.lost = epoch == 2

    options = {"checkpoint_seconds": 0.0}
    with pytest.raises(CutonceError, match=r"was lost in batch 6 of epoch 2"):
        train_blobs(small_network().to(CUDA), 3, train_batches=losing, checkpoint=tmp_path / "s.pt", options=options)
    pretended_cuda.lost = False

"""Steps on real networks: memory that is short, and 16 bits."""

import copy
import warnings

import pytest
import torch
from torch import nn

from cache.errors import CutonceError
from stages.network.freezing import lock_eval_mode
from stages.tasks.regression import Regression
from stages.training.config import TrainConfig
from stages.training.optim import create_optimizer, parameter_groups
from stages.training.train_step import TrainStep
from tests.stages.training.blobs import PER_BATCH, same, small_network, train_blobs
from tests.stages.training.networks import CLASSES, TASK, pictures, quick_network

IMAGES, LABELS = pictures(12)


class Limited(nn.Module):
    """A network on a device whose memory is enough for so many samples."""

    def __init__(self, network, most, error=None):
        super().__init__()
        self.network, self.most, self.error, self.seen = (
            network,
            most,
            error or torch.OutOfMemoryError("out of memory"),
            [],
        )

    def forward(self, inputs):
        self.seen.append(len(inputs))
        outputs = self.network(inputs)
        if self.training and len(inputs) > self.most:
            raise self.error
        return outputs


def network(batchnorm="eval"):
    model = quick_network()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and batchnorm == "eval":
            lock_eval_mode(layer)
    return model


def stepping(model, options=TrainConfig(1), rate=0.01, name="momentum", task=TASK):  # noqa: B008
    groups = parameter_groups(model, [("all", [name for name, _ in model.named_children()], rate)], 0.01)
    optimizer = create_optimizer(name, groups)
    return TrainStep(model, optimizer, options, task), optimizer


def test_a_step_that_runs_out_of_memory_is_made_in_parts_with_the_same_result():
    enough, short = Limited(network(), 12), Limited(network(), 4)
    whole, _ = stepping(enough)
    parted, _ = stepping(short)
    tallies = [whole([(IMAGES, LABELS)], 1) for _ in range(3)]
    with pytest.warns(UserWarning, match=r"not enough memory .* 12: it is computed in \d parts") as caught:
        first = parted([(IMAGES, LABELS)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other_tallies = [parted([(IMAGES, LABELS)], 1) for _ in range(2)]
    assert [str(warning.message).split()[-5] for warning in caught] == ["2", "4"]
    assert short.seen == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    for parameter, other in zip(tallies, [first, *other_tallies], strict=True):
        accuracies = [tally.score(TASK.metrics["accuracy"]) for tally in (parameter, other)]
        assert (parameter.loss, accuracies[0]) == pytest.approx((other.loss, accuracies[1]), rel=1e-4)
    for parameter, other in zip(enough.parameters(), short.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-5)


def test_a_step_made_again_moves_the_statistics_of_batchnorm_once():
    model = Limited(network("train"), 6)
    step, _ = stepping(model)
    with pytest.warns(UserWarning, match="not enough memory"):
        step([(IMAGES, LABELS)], 1)
    assert model.network.bn1.num_batches_tracked == 2  # two parts; the attempt with all did not count


def test_gradients_of_an_attempt_that_failed_do_not_count():
    class FailsLater(Limited):
        def forward(self, inputs):
            if len(self.seen) == 1:
                self.seen.append(len(inputs))
                raise self.error
            return super().forward(inputs)

    plain, failing = Limited(network(), 12), FailsLater(network(), 12)
    batches = [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])]
    stepping(plain)[0](batches, 1)
    with pytest.warns(UserWarning, match="not enough memory"):
        stepping(failing)[0](batches, 1)
    for parameter, other in zip(plain.parameters(), failing.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_for_one_image_is_said_in_words(error):
    step, _ = stepping(Limited(network(), 0, error))
    with (
        pytest.warns(UserWarning, match="not enough memory"),
        pytest.raises(CutonceError, match="not enough to train on one image at a time"),
    ):
        step([(IMAGES, LABELS)], 1)


def test_other_errors_are_not_taken_for_short_memory():
    step, _ = stepping(Limited(network(), 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        step([(IMAGES, LABELS)], 1)


def test_the_number_of_parts_is_remembered_over_a_restart(tmp_path):
    class StopError(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 1:
            raise StopError

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.warns(UserWarning, match="not enough memory"), pytest.raises(StopError):
        train_blobs(Limited(small_network(), PER_BATCH // 2), 2, checkpoint=checkpoint, on_epoch=stop)
    resumed = Limited(small_network(), 10_000)
    train_blobs(resumed, 2, checkpoint=checkpoint)
    assert resumed.seen[0] == PER_BATCH // 2


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_training_in_16_bits_goes_the_same_way_with_weights_in_32(autocast):
    losses = {}
    for arithmetic in ("none", autocast):
        model = network()
        dtypes = set()
        model.classifier.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))  # noqa: B023
        step, _ = stepping(model, TrainConfig(1, amp_dtype=arithmetic, clip_grad=2.0), rate=1e-3)
        step.precision.scaler = torch.amp.GradScaler("cpu", 2.0**10, enabled=arithmetic == "fp16")
        losses[arithmetic] = [step([(IMAGES, LABELS)], 1).loss for _ in range(6)]
        assert dtypes == {{"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arithmetic]}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses[autocast] == pytest.approx(losses["none"], rel=0.05)
    assert losses[autocast][-1] < 0.7 * losses[autocast][0]


@pytest.mark.parametrize(("name", "clip"), [("sgd", None), ("adamw", 1.0), ("lion", None)])
def test_float16_gradients_that_overflow_leave_no_trace_and_the_next_are_scaled_less(name, clip):
    model = network()
    step, _ = stepping(model, TrainConfig(1, amp_dtype="fp16", clip_grad=clip), 3e-4, name)
    step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(model)
    first = step([(IMAGES, LABELS)], 1).loss
    assert same(before, model)
    assert step.precision.scaler.get_scale() == 2.0**39
    step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = [step([(IMAGES, LABELS)], 1).loss for _ in range(4)]
    assert losses[0] == first
    assert losses[-1] < losses[0]


def test_the_score_of_a_step_is_exact_where_numbers_are_large():
    """The share of the variance of prices, whose squares are a million times as large as their variance."""
    task = Regression(("price",), mean=(500_000.0,), scale=(500.0,))
    targets = torch.arange(CLASSES, dtype=torch.float64)[LABELS, None] - 1
    model = network()
    model.classifier = nn.Linear(model.classifier.in_features, 1)
    step, _ = stepping(model, task=task)
    with torch.no_grad():
        statistics = task.statistic(model(IMAGES), targets)
    expected = task.metrics["r2"].score(statistics)
    assert step([(IMAGES[:5], targets[:5]), (IMAGES[5:], targets[5:])], 0).score(task.metrics["r2"]) == pytest.approx(
        expected, rel=1e-5
    )

"""Rare classes count in the loss as much as frequent ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages.tasks.dense import Dense
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel
from stages.training.class_weights import ClassWeights
from stages.training.losses import TaskLoss
from tests.stages.training.blobs import BATCHES, PER_BATCH, TRAIN, VAL, small_network, train_blobs

TASK = SingleLabel("abcd")
LABELS = np.array([0] * 6 + [1] * 3 + [2] * 1)
LOGITS = torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(0))


def test_each_class_that_there_is_has_the_same_sum():
    weights = ClassWeights.balanced(TASK, LABELS)
    sums = [float(weights.present[LABELS[label == LABELS]].sum()) for label in range(3)]
    assert sums == pytest.approx([10 / 3] * 3)
    assert weights.present[3] == 1


def test_the_loss_is_that_of_samples_that_are_as_many_of_each_class():
    repeated = np.repeat(np.arange(len(LABELS)), [1] * 6 + [2] * 3 + [6])
    often = TaskLoss(TASK).terms(LOGITS[repeated], torch.from_numpy(LABELS[repeated]))["main"] / len(repeated)
    weighed = TaskLoss(TASK, weights=ClassWeights.balanced(TASK, LABELS))
    hard = weighed.terms(LOGITS, torch.from_numpy(LABELS))["main"]
    assert float(hard) / len(LABELS) == pytest.approx(float(often), rel=1e-5)
    shares = functional.one_hot(torch.from_numpy(LABELS), 4).float()
    assert weighed.terms(LOGITS, shares)["main"].item() == pytest.approx(float(hard), rel=1e-5)


def test_samples_with_a_label_count_as_much_as_those_without_it_and_unknown_ones_not():
    task, logits = MultiLabel(["warm", "round"]), LOGITS[:, :2]
    targets = np.array([[1, 0]] * 2 + [[0, 0]] * 7 + [[0, np.nan]], np.float32)
    weights = ClassWeights.balanced(task, targets)
    assert weights.present.tolist() == pytest.approx([10 / 4, 1])
    assert weights.absent.tolist() == pytest.approx([10 / 16, 1])
    of_each = functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(targets).nan_to_num(), reduction="none"
    )
    factors = torch.tensor([[10 / 4, 1]] * 2 + [[10 / 16, 1]] * 7 + [[10 / 16, 0]])
    expected = (of_each * factors).sum(dim=1) / torch.tensor([2] * 9 + [1])
    actual = TaskLoss(task, weights=weights).terms(logits, torch.from_numpy(targets))["main"]
    assert actual.item() == pytest.approx(float(expected.sum()), rel=1e-5)
    half = torch.full((1, 2), 0.5)  # as two samples are blended
    assert weights.of(half)[0].tolist() == pytest.approx([(10 / 4 + 10 / 16) / 2, 1])


def test_numbers_and_masks_have_no_such_weights():
    assert ClassWeights.balanced(Regression(("price",)), np.zeros((4, 1))) is None
    assert ClassWeights.balanced(Dense(["road", "sky"]), np.arange(4)) is None


def test_a_rare_class_is_found_more_often(monkeypatch):
    few = torch.cat([torch.nonzero(TRAIN[1] == label)[: 4 if label == 2 else 90, 0] for label in range(3)])
    inputs, labels = TRAIN[0][few], TRAIN[1][few]

    def batches(epoch, first=0):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for part in order.repeat(2)[: PER_BATCH * BATCHES].split(PER_BATCH)[first:]:
            yield inputs[part], labels[part]

    def recall(weights):
        network = small_network()
        train_blobs(network, 6, train_batches=batches, class_weights=weights)
        with torch.no_grad():
            return float((network.eval()(VAL[0][VAL[1] == 2]).argmax(dim=1) == 2).float().mean())

    task = SingleLabel("abc")
    assert recall(ClassWeights.balanced(task, labels.numpy())) > recall(None) + 0.2

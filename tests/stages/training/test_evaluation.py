"""What a model answers in evaluation: predictions, losses and scores, of whatever task."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cache.errors import DataError
from stages.tasks.single_label import SingleLabel
from stages.training.evaluation import evaluate_loss, predict
from tests.stages.training.blobs import CLASSES, TASK, TRAIN, VAL, small_network
from tests.stages.training.test_train_step import Limited


def test_probabilities_are_rows_that_sum_to_one_in_evaluation_mode():
    model = small_network().train()
    probabilities = predict(model, VAL[0].split(50), TASK)
    assert probabilities.shape == (240, 3)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(240))
    assert torch.equal(probabilities, predict(model, VAL[0].split(50), TASK))


def test_the_validation_loss_is_that_of_all_samples_however_they_are_batched():
    model = small_network()
    whole = evaluate_loss(model, [TRAIN], TASK)
    parts = evaluate_loss(model, zip(TRAIN[0].split(37), TRAIN[1].split(37), strict=True), TASK)
    assert whole == pytest.approx(parts, rel=1e-6)


class ByMacroF1(SingleLabel):
    """Classes, of which a metric that is no mean over samples is the first."""

    primary = "f1_macro"


class ByArea(SingleLabel):
    """Classes, of which a metric that needs all samples at once is the first."""

    primary = "auc_macro"


@pytest.mark.parametrize("task", [TASK, ByMacroF1("abc"), ByArea("abc")], ids=lambda task: task.primary)
def test_the_score_is_the_primary_metric_of_all_samples_however_they_are_batched(task):
    model = small_network()
    _, score = evaluate_loss(model, zip(TRAIN[0].split(37), TRAIN[1].split(37), strict=True), task)
    statistics = task.statistic(predict(model, [TRAIN[0]], task), TRAIN[1])
    assert score == task.metrics[task.primary].score(statistics)


def test_the_accuracy_is_a_count_over_a_count():
    model = small_network()
    right = int((model.eval()(VAL[0]).argmax(dim=1) == VAL[1]).sum())
    assert evaluate_loss(model, [VAL], TASK)[1] == right / len(VAL[1])


def test_a_model_whose_output_is_not_finite_has_a_loss_that_says_so_and_no_score():
    assert all(map(math.isnan, evaluate_loss(small_network(), [VAL, (VAL[0] * math.nan, VAL[1])], TASK)))


def test_without_a_sample_there_is_nothing_to_validate():
    with pytest.raises(DataError, match="no image to validate on"):
        evaluate_loss(small_network(), [], TASK)


class WithAuxiliary(nn.Module):
    """A network that answers with an auxiliary classifier in evaluation, too."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, inputs):
        logits = self.network(inputs)
        return logits, [(0.3, -logits)]


def test_auxiliary_classifiers_do_not_count():
    model = WithAuxiliary()
    assert evaluate_loss(model, [VAL], TASK) == evaluate_loss(model.network, [VAL], TASK)
    assert torch.equal(predict(model, [VAL[0]], TASK), predict(model.network, [VAL[0]], TASK))


def test_rows_of_any_type_are_taken_as_float32_and_without_a_task_answers_stay_logits():
    model = small_network().eval()
    halves = VAL[0].half()
    logits = predict(model, halves.split(100), None)
    assert logits.shape == (len(VAL[0]), CLASSES)
    assert np.allclose(logits.numpy(), model(halves.float()).detach().numpy(), atol=1e-6)
    assert logits.softmax(dim=1).numpy() == pytest.approx(predict(model, [halves], TASK).numpy(), abs=1e-6)


class LimitedAnswer(Limited):
    """A network that has too little memory in evaluation."""

    def forward(self, inputs):
        self.seen.append(len(inputs))
        if len(inputs) > self.most:
            raise self.error
        return self.network(inputs)


def test_validation_that_does_not_fit_is_made_in_parts_with_the_same_result():
    with pytest.warns(UserWarning, match="for validation of 240 images"):
        found = evaluate_loss(LimitedAnswer(small_network(), 70), [VAL], TASK)
    assert found == pytest.approx(evaluate_loss(small_network(), [VAL], TASK), rel=1e-6)

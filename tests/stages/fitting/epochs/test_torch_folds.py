"""Torch heads of all folds side by side: each as if it had been trained alone on its fold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.epochs.torch_folds import _FoldedHeads, fold_torch_head
from stages.fitting.standardize import Standardizer
from stages.network.heads.registry import build_head
from tests.stages.fitting.rows_of_digits import digits, fit_problem

SETTINGS = [{"rate": 1e-2, "weight decay": 1e-2}, {"rate": 1e-3, "weight decay": 0.0}]
QUICK = HeadConfig(fit_epochs=8, hidden_dim=16, fit_batch_size=32)


def made(**options):
    train, val, _ = digits(3)
    problem = replace(fit_problem(train, val, classes=3, options=replace(QUICK, **options)), compared=True)
    torch.manual_seed(0)
    return problem, build_head("mlp", train.row_shape, 3, {"hidden": 16, "dropout": 0.0, "l2": False})


def no_scaler(rows):
    return None


def test_heads_side_by_side_say_what_they_say_one_by_one():
    problem, template = made()
    together = fold_torch_head(problem, template, SETTINGS, no_scaler)
    template.stackable = False
    one_by_one = fold_torch_head(problem, template, SETTINGS, no_scaler)
    np.testing.assert_allclose(together.outputs, one_by_one.outputs, atol=1e-3)


def test_the_same_twice_to_the_bit():
    first, second = (fold_torch_head(*made(), SETTINGS, no_scaler) for _ in range(2))
    np.testing.assert_array_equal(first.outputs, second.outputs)


@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"sampling": "balanced"}])
def test_rare_classes_count_as_the_options_say(options):
    problem, template = made(**options)
    plain = fold_torch_head(*made(), SETTINGS[:1], no_scaler)
    assert not np.array_equal(fold_torch_head(problem, template, SETTINGS[:1], no_scaler).outputs, plain.outputs)


def test_no_row_that_is_left_out_is_trained_on():
    problem, template = made()
    heads = _FoldedHeads(problem, template, SETTINGS, no_scaler)
    for fold in heads.folds:
        shown = np.concatenate([indices for indices, _ in heads._batches(fold, 0)])
        assert set(shown) <= set(fold.fitted)
        assert not set(fold.fitted) & set(fold.scored)


def test_a_rate_that_diverges_is_never_the_best():
    problem, template = made()
    settings = [{"rate": 1e12, "weight decay": 0.0}, SETTINGS[0]]
    outputs = fold_torch_head(problem, template, settings, no_scaler).outputs[0]
    assert np.mean(outputs.argmax(axis=1) == problem.labels) > 0.8


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_steps_on_a_gpu_are_not_waited_for(pretended_cuda, weights):
    def waits(batch_size):
        problem, template = made(class_weights=weights, fit_batch_size=batch_size)
        problem = replace(problem, device=torch.device("cuda"))
        heads = _FoldedHeads(problem, template, SETTINGS, Standardizer.fit)
        heads.train_epoch(1)
        before = pretended_cuda.synchronizations
        heads.train_epoch(2)
        return pretended_cuda.synchronizations - before

    assert waits(8) == waits(64) <= 2

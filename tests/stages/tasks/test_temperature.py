"""One temperature: where the task's loss is lowest."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch.nn import functional

from stages.tasks.temperature import ABSENT_CLASS_SCORE, fit_temperature
from tests.stages.fitting.labels_and_numbers import number_task
from tests.stages.fitting.rows_of_digits import numbered_classes
from tests.stages.fitting.tags import Tags


def margins_of_classes(seed=0):
    """Return margins that are five times the logits that the labels were drawn by, and the labels."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(4000, 3)) * 1.5
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return (5 * logits).astype(np.float32), labels


def test_margins_divided_by_the_temperature_are_the_logits_that_labels_follow():
    assert fit_temperature(numbered_classes(3), *margins_of_classes()) == pytest.approx(5, rel=0.1)


def test_no_temperature_beside_it_has_a_lower_loss():
    margins, labels = margins_of_classes()
    best = fit_temperature(numbered_classes(3), margins, labels)
    losses = [
        float(functional.cross_entropy(torch.from_numpy(margins).double() / (factor * best), torch.from_numpy(labels)))
        for factor in (0.9, 1.0, 1.1)
    ]
    assert losses[1] == min(losses)


def test_another_task_is_calibrated_by_its_own_loss():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2000, 2)) * 2
    drawn = (logits + generator.logistic(size=logits.shape) > 0).astype(np.float32)
    assert fit_temperature(Tags(2), 7 * logits, drawn) == pytest.approx(7, rel=0.1)


def rightly_told(count, seed=0):
    """Return margins of two classes of which none is wrong, and the classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    right = generator.uniform(0.01, 3, count)
    return np.stack([np.where(labels == kind, right, -right) for kind in (0, 1)], axis=1), labels


@pytest.mark.parametrize("count", [5, 50, 2000])
def test_of_rows_without_an_error_a_later_one_stays_possible(count):
    margins, labels = rightly_told(count)
    logits = margins / fit_temperature(numbered_classes(2), margins, labels)
    sure = softmax(logits, axis=1).max(axis=1)
    assert 1 - sure.mean() == pytest.approx(1 / (count + 2), rel=0.3)  # as many errors as after none of so many
    sure = expit(np.abs(margins) / fit_temperature(Tags(2), margins, np.eye(2)[labels]))
    assert 1 - sure.mean() == pytest.approx(1 / (count + 2), rel=0.3)
    margins[0] = -0.5 * margins[0]  # one error, and the loss has its minimum where it is lowest
    losses = [
        float(functional.cross_entropy(torch.from_numpy(margins) / (factor * best), torch.from_numpy(labels)))
        for best in [fit_temperature(numbered_classes(2), margins, labels)]
        for factor in (0.9, 1.0, 1.1)
    ]
    assert losses[1] == min(losses)


def test_values_are_no_margins():
    assert fit_temperature(number_task(1), np.full((4, 1), 9.0), np.zeros((4, 1))) == 1.0


def test_rows_of_a_class_that_a_model_was_not_fitted_to_have_no_part_in_it():
    margins, labels = margins_of_classes()
    absent = np.full((len(margins), 1), ABSENT_CLASS_SCORE, np.float32)
    alone = fit_temperature(numbered_classes(4), np.concatenate([margins, absent], axis=1), labels)
    labels[:40] = 3
    beside = fit_temperature(numbered_classes(4), np.concatenate([margins, absent], axis=1), labels)
    assert beside == pytest.approx(alone, rel=0.05)
    assert fit_temperature(numbered_classes(4), np.concatenate([margins, absent], axis=1)[:40], labels[:40]) > 0

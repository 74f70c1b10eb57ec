"""That the new room gives, to the bit, what the old functions gave. To be deleted together with these."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.fitting.folds import balanced_weights
from stages.fitting.scores import selection_score
from stages.tasks import evaluate as old
from stages.tasks import statistics
from stages.tasks.base import evaluate
from stages.tasks.metrics import OLD_NAMES, balanced_accuracy
from stages.tasks.single_label import SingleLabel
from stages.training.losses import CrossEntropy, correct


def predictions(seed, n, classes, dtype=np.float32):
    """Return targets and probabilities, some of them wrong."""
    random = np.random.default_rng(seed)
    target = random.integers(classes, size=n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[target]
    return target, torch.from_numpy(logits).softmax(dim=1).numpy().astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (2, 2), (40, 2), (656, 2), (300, 3), (500, 10), (400, 60), (9, 30)])
@pytest.mark.parametrize("seed", range(5))
def test_every_score_is_the_old_one_to_the_bit(seed, n, classes, dtype):
    target, probabilities = predictions(seed, n, classes, dtype)
    before = old.evaluate(target, probabilities, seed=seed)
    task = SingleLabel([str(number) for number in range(classes)])
    kept = task.statistic(torch.from_numpy(probabilities), torch.from_numpy(target))
    now = evaluate(task, kept)
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert now[OLD_NAMES.get(name, name)] == before[name], name
    if before["auc"] is not None:
        assert now["auc_macro"] == before["auc"]
    else:
        assert classes > 2 or np.isnan(now["auc_macro"])
    assert task.confusion(kept).tolist() == before["confusion"]
    interval = statistics.bootstrap_interval(task.metrics["accuracy"], kept, seed=seed)
    assert list(interval) == before["accuracy_ci95"]
    assert now["balanced_accuracy"] == selection_score(probabilities, target, balanced=True)
    assert balanced_accuracy(target, probabilities.argmax(axis=1)) == selection_score(
        probabilities, target, balanced=True
    )


@pytest.mark.parametrize(("n", "groups"), [(1, 1), (3, 3), (200, None), (200, 60), (2000, 700)])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_and_tests_of_right_and_wrong_are_the_old_ones_to_the_bit(seed, n, groups):
    random = np.random.default_rng(seed)
    a, b = random.random(n) < 0.8, random.random(n) < 0.7
    which = None if groups is None else random.integers(groups, size=n)
    assert statistics.accuracy_interval(a, which, seed=seed) == old.accuracy_interval(a, which, seed=seed)
    assert statistics.paired_difference(a, b, which, seed=seed) == old.paired_difference(a, b, which, seed=seed)
    assert statistics.mcnemar(a, b, which) == old.mcnemar(a, b, which)


def test_draws_cut_into_portions_are_the_old_ones_too(monkeypatch):
    monkeypatch.setattr(statistics, "_NUMBERS_AT_ONCE", 1000)
    random = np.random.default_rng(0)
    correct, images = random.random(900) < 0.6, random.integers(300, size=900)
    assert statistics.accuracy_interval(correct, images) == old.accuracy_interval(correct, images)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_is_the_old_one_to_the_bit(smoothing, weighted, mixed, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(257, 7, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(7, (257,), generator=generator)
    if mixed:
        target = torch.rand(257, 7, generator=generator).softmax(dim=1)
    weights = [0.5, 1.0, 2.0, 0.7, 0.1, 3.0, 1.5] if weighted else None
    before = CrossEntropy(smoothing, weights).terms(logits, target)["main"]
    task = SingleLabel("abcdefg")
    of_classes = None if weights is None else torch.tensor(weights)
    now = task.loss(logits, target, smoothing=smoothing, class_weights=of_classes)
    assert torch.equal(now, before)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (now, before)))
    true = target.argmax(dim=1) if mixed else target
    assert int((task.predict(task.activate(logits)) == true).sum()) == int(correct(logits, target))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=200))
@settings(deadline=None)
def test_balanced_weights_are_the_old_ones_to_the_bit(labels):
    target = np.array(labels)
    assert np.array_equal(SingleLabel("abcdefghi").weights(target), balanced_weights(target))

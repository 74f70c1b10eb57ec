"""Many linear models at once, on a device, come to what each comes to alone on cores."""

import numpy as np
import pytest
import torch

from stages.fitting.solvers import batched_lbfgs, device_linear, device_rows
from stages.fitting.solvers.device_linear import DeviceLinearModels, LinearFit, split_for_tf32
from stages.fitting.solvers.device_rows import DeviceRows
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.multi_label import MultiLabel
from tests.stages.fitting.rows_of_digits import numbered_classes, skewed

CPU = torch.device("cpu")
FITS = [LinearFit(scaling, c, fold) for scaling in ("l2", "none", "standard") for c in (0.01, 0.3) for fold in (0, 1)]


def labelled(kind):
    """Return rows, labels and the task: of two or three classes, or of labels some of which are not known."""
    classes = {"two": 2, "three": 3, "labels": 4}[kind]
    rows, labels = skewed(count=400, width=24, classes=classes)
    if kind != "labels":
        return rows, labels, numbered_classes(classes)
    several = np.zeros((len(labels), 5), np.float32)
    several[np.arange(len(labels)), labels] = 1
    several[:, 0] = rows[:, 1] > np.median(rows[:, 1])
    several[::7, 2] = np.nan
    several[:, 4] = 0  # of this there is nothing to learn
    return rows, several, MultiLabel([str(number) for number in range(5)])


def models_of(factory, rows, labels, folds, device=CPU, dtype=torch.float64):
    return DeviceLinearModels(factory, DeviceRows.of([rows[:150], rows[150:]], device), labels, folds, dtype)


def alike(scores, expected, kind):
    """A constant over the classes changes no probability."""
    if kind == "three":
        scores, expected = (values - values.mean(axis=1, keepdims=True) for values in (scores, expected))
    return np.abs(scores - expected).max()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["two", "three", "labels"])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_each_model_of_a_batch_is_the_one_that_is_fitted_alone_on_cores(loss, kind, balanced, monkeypatch):
    monkeypatch.setattr(device_linear, "_BLOCK_BYTES", 100 * 8 * 5 * len(FITS))  # several blocks
    rows, labels, task = labelled(kind)
    center = rows.mean(axis=0)
    factory = LinearModelFactory(loss, task, center, balanced)
    folds = [np.flatnonzero(np.arange(len(rows)) % 3 != fold) for fold in range(2)]
    models = models_of(factory, rows, labels, folds)
    states = models.fit(FITS, [None] * len(FITS), final=True)
    scores = models.scores(FITS, states, DeviceRows.of([rows], CPU))
    for fit, state, found in zip(FITS, states, scores, strict=True):
        alone = factory(fit.scaling, (rows - center)[folds[fit.fold]].astype(np.float64), labels[folds[fit.fold]])
        alone.fit(fit.c, final=True)
        assert alike(found, alone.scores(rows - center), kind) < 2e-3
        with torch.inference_mode():
            of_head = models.head(fit, state)(torch.from_numpy(rows)).numpy()
        assert np.abs(of_head - found).max() < 1e-3


def test_in_float32_and_from_another_value_of_c_a_model_is_the_same_but_for_rounding():
    rows, labels, task = labelled("three")
    factory, folds = LinearModelFactory("logistic", task, rows.mean(axis=0)), [slice(0, len(rows))]
    exact, rounded = (models_of(factory, rows, labels, folds, dtype=dtype) for dtype in (torch.float64, torch.float32))
    fit = LinearFit("standard", 0.05)
    expected = exact.scores([fit], exact.fit([fit], [None], final=True), DeviceRows.of([rows], CPU))[0]
    before = rounded.fit([LinearFit("standard", 0.01)], [None])
    found = rounded.scores([fit], rounded.fit([fit], before, final=True), DeviceRows.of([rows], CPU))[0]
    assert alike(found, expected, "three") < 0.02


@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.usefixtures("gpu")
def test_a_device_comes_to_the_same_and_so_it_does_where_rows_are_sent(stored, monkeypatch):
    rows, labels, task = labelled("three")
    rows = rows.astype(stored)
    factory = LinearModelFactory("logistic", task, rows.mean(axis=0, dtype=np.float32))
    folds = [np.arange(0, 300), np.arange(100, 400)]
    found = []
    for device, free in (("cpu", 1), ("cuda", 1 << 34), ("cuda", 100)):
        monkeypatch.setattr(device_rows, "free_memory", lambda _, free=free: free)
        models = models_of(factory, rows, labels, folds, torch.device(device), torch.float32)
        assert models.in_tf32 == (device == "cuda" and stored == np.float16)
        states = models.fit(FITS, [None] * len(FITS), final=True)
        found.append(models.scores(FITS, states, models.rows.at(slice(50, 350))))
    for on_cores, resident, sent in zip(*found, strict=True):
        assert alike(on_cores, resident, "three") < 0.03
        assert alike(resident, sent, "three") < 0.03


def test_models_that_are_too_large_for_one_batch_come_to_the_same_in_several(monkeypatch):
    rows, labels, task = labelled("three")
    factory = LinearModelFactory("logistic", task, rows.mean(axis=0))
    folds = [np.arange(0, 300), np.arange(100, 400)]
    models, sizes, found = models_of(factory, rows, labels, folds), [], []
    original = device_linear.minimize

    def minimize(objective, start, **options):
        sizes.append(len(start))
        return original(objective, start, **options)

    monkeypatch.setattr(device_linear, "minimize", minimize)
    for most in (len(FITS), 5):
        numbers = batched_lbfgs.KEPT_OF_A_POINT * models.targets.width * (rows.shape[1] + 1)
        monkeypatch.setattr(device_rows, "SOLVER_BYTES", most * numbers * 8)
        found.append(models.scores(FITS, models.fit(FITS, [None] * len(FITS), final=True), models.rows))
    assert sizes == [12, 5, 5, 2]
    for whole, in_parts in zip(*found, strict=True):
        assert alike(whole, in_parts, "three") < 1e-3


def test_two_numbers_of_tf32_are_one_of_float32():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 1000)
    high, low = split_for_tf32(values)
    assert torch.equal(high + low, values)
    assert not (high.view(torch.int32) & 0x1FFF).any()
    assert ((low / values).abs() < 2**-10).all()


def test_nothing_to_learn_has_constant_scores():
    rows, _, task = labelled("labels")
    labels = np.zeros((len(rows), 5), np.float32)
    models = models_of(LinearModelFactory("logistic", task, rows.mean(axis=0)), rows, labels, [slice(0, 300)])
    fit = LinearFit("none", 1.0)
    scores = models.scores([fit], models.fit([fit], [None]), DeviceRows.of([rows], CPU))[0]
    assert scores.shape == (len(rows), 5)
    assert np.ptp(scores) == 0

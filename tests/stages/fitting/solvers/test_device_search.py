"""A search on a device chooses what the one on cores chooses, and its head is as good."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_head
from stages.fitting.heads.fit_rbf_svm import fit_rbf
from stages.fitting.heads.logistic import fit_logistic
from stages.fitting.heads.svm import fit_svm
from stages.fitting.problem import FitProblem
from stages.fitting.solvers import device_linear, device_search, grid, grid_search
from stages.fitting.solvers.device_rows import DeviceRows
from stages.fitting.solvers.device_search import DeviceFits
from stages.fitting.solvers.linear_models import LinearModelFactory
from stages.tasks.base import ranked_by
from stages.tasks.multi_label import MultiLabel
from tests.stages.fitting.rows_of_digits import numbered_classes, skewed
from tests.stages.fitting.stored_rows import streamed

VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@pytest.fixture(autouse=True)
def any_rows_pay(monkeypatch):
    monkeypatch.setattr(device_search, "PAYS_FROM", 0)


def problem_of(*, classes=3, count=600, labels=False, metric="log_loss", train=0.75, groups=None, **options):
    """Return a problem whose settings are told apart by how sure they are, which is no matter of single rows."""
    rows, targets = skewed(count=count, width=30, classes=classes)
    task = numbered_classes(classes)
    if labels:
        several = np.zeros((count, classes), np.float32)
        several[np.arange(count), targets] = 1
        several[:, 0] = rows[:, 1] > np.median(rows[:, 1])
        several[::9, 1] = np.nan
        targets, task = several, MultiLabel([str(number) for number in range(classes)])
    task = ranked_by(task, metric) if metric else task
    size = round(train * count)
    parts = [FeatureRows(rows[part].astype(np.float16), targets[part]) for part in (slice(size), slice(size, None))]
    config = HeadConfig(**{"c_values": VALUES, "cv": 0, **options})
    return FitProblem(*parts, task, config, 0, torch.device("cpu"))


def both(problem, fit=fit_logistic):
    return fit(problem), fit(replace(problem, device=torch.device("cuda"), shared={}))


def loss_of(problem, head):
    rows = torch.from_numpy(problem.all_rows.features).float()
    with torch.inference_mode():
        return problem.task.mean_loss(head(rows).double().numpy(), problem.labels)


def assert_alike(problem, on_cores, on_device):
    setting = [(fitted.settings["C"], fitted.settings["scaler"]) for fitted in (on_cores, on_device)]
    assert setting[0] == setting[1]
    for name in ("head", "head_train_only"):
        losses = [loss_of(problem, getattr(fitted, name)) for fitted in (on_cores, on_device)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        {"classes": 2},
        {"classes": 12, "count": 900},
        {"classes": 3, "class_weights": "balanced", "scalers": ("none", "standard", "l2")},
        {"classes": 4, "labels": True},
        {"classes": 3, "cv": 4},
        {"classes": 2, "cv": 3, "class_weights": "balanced"},
    ],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_the_same_setting_is_chosen_and_the_loss_is_the_same(shape, pretended_cuda):
    problem = problem_of(**shape)
    on_cores, on_device = both(problem)
    assert_alike(problem, on_cores, on_device)
    scores = [
        {(each["C"], each["scaler"]): each["score"] for each in fitted.candidates} for fitted in (on_cores, on_device)
    ]
    assert scores[0].keys() == scores[1].keys()
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


@pytest.mark.parametrize("labels", [False, True])
def test_margins_of_the_svm_have_the_same_temperature(labels, pretended_cuda):
    problem = problem_of(classes=3, labels=labels, cv=3)
    on_cores, on_device = both(problem, fit_svm)
    assert_alike(problem, on_cores, on_device)
    assert on_device.settings["temperature"] == pytest.approx(on_cores.settings["temperature"], rel=0.02)


def test_many_rows_are_searched_by_a_part_first_and_the_same_are_climbed_to(monkeypatch, pretended_cuda):
    monkeypatch.setattr(grid, "SUBSAMPLE_FROM", 1000)
    problem = problem_of(count=2400)
    on_cores, on_device = both(problem)
    assert_alike(problem, on_cores, on_device)
    for kind in (True, False):
        tried = [
            {(each["C"], each["scaler"]) for each in fitted.candidates if ("rows" in each) == kind}
            for fitted in (on_cores, on_device)
        ]
        assert tried[0] == tried[1]


@pytest.mark.parametrize("shape", [{"classes": 2}, {"classes": 3, "labels": True}], ids=["two classes", "labels"])
@pytest.mark.parametrize("fit", [fit_logistic, fit_svm])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_rows_that_stay_in_the_cache_give_what_rows_in_memory_give(tmp_path, shape, fit, device, pretended_cuda):
    problem = problem_of(**shape)
    train, val = streamed(tmp_path, problem.in_memory)
    on_cores = fit(problem)
    assert_alike(problem, on_cores, fit(replace(problem, train=train, val=val, device=torch.device(device), shared={})))


def test_rows_of_which_no_copy_finds_room_are_gone_through_in_batches(monkeypatch):
    problem, ways = problem_of(classes=3), []
    on_cores, search = fit_logistic(problem), DeviceFits.search
    monkeypatch.setattr(grid_search, "free_memory", lambda _: 2 * 600 * 30 * 4 - 1)
    monkeypatch.setattr(DeviceFits, "search", lambda *given: ways.append(1) or search(*given))
    assert_alike(problem, on_cores, fit_logistic(replace(problem, shared={})))
    assert ways == [1]
    monkeypatch.setattr(grid_search, "free_memory", lambda _: 2 * 600 * 30 * 4)
    fit_logistic(replace(problem, shared={}))
    assert ways == [1]


def test_many_rows_of_a_cache_are_searched_by_as_many_as_memory_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "SUBSAMPLE_FROM", 1000)
    problem = problem_of(count=2400, scalers=("none", "standard", "l2"))
    train, val = streamed(tmp_path, problem.in_memory, memory=2 * 200 * 30 * 2)
    found = fit_logistic(replace(problem, train=train, val=val))
    assert {each["rows"] for each in found.candidates if "rows" in each} == {200}  # of 225 that the part would have
    expected = fit_logistic(problem)
    assert found.settings["C"] == expected.settings["C"]
    assert loss_of(problem, found.head) == pytest.approx(loss_of(problem, expected.head), abs=1e-3)


def test_fits_to_all_rows_begin_at_zero_and_not_at_the_weights_of_a_part(monkeypatch, pretended_cuda):
    monkeypatch.setattr(grid, "SUBSAMPLE_FROM", 1000)
    fits, original = [], device_linear.DeviceLinearModels.fit

    def fit(models, settings, starts, *, final=False):
        fits.append((len(models.rows), [start is None for start in starts]))
        return original(models, settings, starts, final=final)

    monkeypatch.setattr(device_linear.DeviceLinearModels, "fit", fit)
    fit_logistic(replace(problem_of(count=2400), device=torch.device("cuda")))
    on_all = [are_zero for count, are_zero in fits if count == 1800]
    assert all(on_all[0])
    assert not any(on_all[1])


def test_rows_that_do_not_fit_are_sent_and_the_same_comes_out(pretended_cuda, monkeypatch):
    monkeypatch.setattr(device_linear, "_BLOCK_BYTES", 1 << 16)
    problem = problem_of(cv=3)
    pretended_cuda.free = 1000
    on_cores, on_device = both(problem)
    assert_alike(problem, on_cores, on_device)


def test_no_more_than_one_fold_is_copied_beside_the_rows(monkeypatch, pretended_cuda):
    """Rows may take half of the memory: all folds together would take the other half."""
    original, copies, alive = DeviceRows.at, [], []

    def at(rows, selection):
        chosen = original(rows, selection)
        if not isinstance(selection, slice):
            copies.append(weakref.ref(chosen.resident))
            alive.append(sum(copy() is not None for copy in copies))
        return chosen

    monkeypatch.setattr(DeviceRows, "at", at)
    fit_logistic(replace(problem_of(cv=4), device=torch.device("cuda")))
    assert len(alive) >= 4
    assert max(alive) == 1


def test_outputs_out_of_folds_are_those_of_cores(pretended_cuda):
    problem = replace(problem_of(count=240, cv=3), compared=True)
    assert len(problem.divisions) > 1
    folded = [fitted.fold() for fitted in both(problem)]
    for on_cores, on_device in zip(folded[0].outputs, folded[1].outputs, strict=True):
        shares = [torch.from_numpy(outputs).softmax(dim=1).numpy() for outputs in (on_cores, on_device)]
        assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_folds_that_lack_a_class_are_fitted_apart(pretended_cuda):
    """A class of two samples is missing from the rows that one fold is fitted to."""
    problem = problem_of(count=300)
    labels = problem.labels.copy()
    rows = FeatureRows(problem.all_rows.features, np.where(labels == 0, 1, labels))
    rows.labels[[7, 8]] = 0
    fits = DeviceFits.of(replace(problem, train=rows, device=torch.device("cuda")), _factory_of(problem), margins=False)
    folds = [
        (np.setdiff1d(np.arange(300), left_out), left_out) for left_out in (np.arange(5, 100), np.arange(150, 250))
    ]
    outputs = fits.out_of_fold([("standard", 0.1)] * 2, folds)
    assert (outputs[0][:, 0] < -1000).all()
    assert (outputs[1][:, 0] > -1000).all()


def _factory_of(problem):
    return lambda center: LinearModelFactory("logistic", problem.task, center)


def test_few_rows_and_kernels_are_left_to_the_cores(monkeypatch, pretended_cuda):
    used = []
    monkeypatch.setattr(DeviceFits, "search", lambda *_: used.append(1))
    problem = replace(problem_of(count=200), device=torch.device("cuda"))
    fit_rbf(problem)
    monkeypatch.setattr(device_search, "PAYS_FROM", 10**9)
    train_head("logistic", problem)
    assert not used

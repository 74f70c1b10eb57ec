"""Heads in closed form, kernels and neighbors: on a device they come to what they come to on cores."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import CutonceError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting import fit_head
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import get_fit, train_foldable_head, train_head
from stages.fitting.heads import ridge
from stages.fitting.heads.ridge import GramSums, RidgeTargets
from stages.fitting.problem import FitProblem
from stages.fitting.solvers import device_search
from stages.runtime import device as devices
from stages.runtime.device import product_device
from stages.tasks.multi_label import MultiLabel
from tests.stages.fitting.rows_of_digits import numbered_classes, skewed

CUDA = torch.device("cuda")
OPTIONS = {"c_values": (1e-3, 1e-2, 1e-1), "nystroem_components": 60, "n_neighbors": (1, 5)}


@pytest.fixture(autouse=True)
def any_product_pays(monkeypatch):
    monkeypatch.setattr(devices, "_PAYS_FROM", 0)


def problem_of(kind, *, count=240, width=20, **options):
    rows, targets = skewed(count=count, width=width)
    task = numbered_classes(3)
    if kind == "labels":
        targets = np.stack([targets == number for number in range(3)], axis=1).astype(np.float32)
        targets[::7, 1] = np.nan
        task = MultiLabel("abc")
    groups = np.arange(count) // 4 if kind == "groups" else None
    parts = [
        FeatureRows(rows[part].astype(np.float16), targets[part], groups=None if groups is None else groups[part])
        for part in (slice(0, 180), slice(180, count))
    ]
    return FitProblem(*parts, task, HeadConfig(**{**OPTIONS, **options}), 0, torch.device("cpu"))


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "rbf", "knn"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classes", {"cv": 0, "class_weights": "balanced", "scalers": ("standard", "l2")}),
        ("classes", {"cv": 3}),
        ("classes", {"width": 300, "cv": 3}),
        ("groups", {"cv": 3}),
        ("labels", {"cv": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.usefixtures("gpu")
def test_choices_and_outputs_are_those_of_cores(name, kind, options):
    if name == "knn":
        options = {key: value for key, value in options.items() if key != "class_weights"}
    problem = problem_of(kind, **options)
    gc.collect()  # what other tests have left on the device would make room while these are fitted
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    on_cores = get_fit(name)(problem)
    assert torch.cuda.max_memory_allocated() == before
    on_device = get_fit(name)(replace(problem, device=CUDA, shared={}))
    assert torch.cuda.max_memory_allocated() > before
    for key in ("C", "scaler", "gamma ratio", "k"):
        assert on_cores.settings.get(key) == on_device.settings.get(key)
    rows = torch.from_numpy(problem.all_rows.features).float()
    for part in ("head", "head_train_only"):
        with torch.inference_mode():
            outputs = [getattr(fitted, part)(rows).numpy() for fitted in (on_cores, on_device)]
        assert np.abs(outputs[0] - outputs[1]).max() < 2e-3 * max(np.abs(outputs[0]).max(), 1)


def test_predictions_under_many_penalties_are_made_some_rows_at_a_time(monkeypatch, pretended_cuda):
    rows, labels = skewed(count=400, width=20)
    given, weights = FeatureRows(rows, labels), np.ones(400, np.float32)
    penalties, found = np.logspace(-3, 3, 100), []
    sums = GramSums.of(given, RidgeTargets(numbered_classes(3)), weights, rows.mean(axis=0), l2=False, device=CUDA)
    for most in (1 << 20, 48_000):
        monkeypatch.setattr(ridge, "_PREDICTED_BYTES", most)
        pretended_cuda.peak = 0
        found.append(sums.eigendecompose("standard").predictions(given, penalties, weights))
    assert pretended_cuda.peak <= 48_000
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "rbf", "knn", "logistic", "svm"])
def test_what_does_not_fit_on_a_device_the_processor_computes_and_that_is_said(
    name, monkeypatch, pretended_cuda, caplog
):
    monkeypatch.setattr(device_search, "PAYS_FROM", 0)
    problem = problem_of("classes", cv=3)
    expected, fold = train_foldable_head(name, problem)
    pretended_cuda.largest_allocation = 200
    found, fold_there = train_foldable_head(name, replace(problem, device=CUDA, shared={}))
    assert f"the memory of cuda is not enough for {name}, which the processor computes instead" in caplog.text
    for key, tensor in expected.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[key], tensor)
    np.testing.assert_array_equal(fold_there().outputs, fold().outputs)


def test_memory_that_is_short_for_the_folds_alone_has_the_processor_fold(monkeypatch, pretended_cuda, caplog):
    problem = problem_of("classes", cv=3)
    _, fold = train_foldable_head("knn", problem)
    _, fold_there = train_foldable_head("knn", replace(problem, device=CUDA, shared={}))
    pretended_cuda.largest_allocation = 200
    np.testing.assert_array_equal(fold_there().outputs, fold().outputs)
    assert "the memory of cuda is not enough for knn" in caplog.text


CUBLAS = (
    "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
    "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses CuBLAS"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("one_cuda does not have a deterministic implementation, but you set", "one_cuda: leave the option out"),
        (CUBLAS, r"products of matrices, .*set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python begins\): leave"),
    ],
)
def test_what_is_refused_for_having_no_one_result_is_told(monkeypatch, error, said):
    def refuses(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(fit_head, "get_fit", lambda _name: refuses)
    with pytest.raises(UsageError, match=f"`deterministic`: torch cannot train knn .*{said}"):
        train_head("knn", problem_of("classes", cv=3))


def test_a_device_that_is_lost_is_told_and_other_errors_are_left(monkeypatch, pretended_cuda):
    problem = replace(problem_of("classes", cv=3), device=CUDA)
    pretended_cuda.lost = True
    with pytest.raises(CutonceError, match=r"cuda answers no more .*the same command goes on"):
        train_head("knn", problem)
    pretended_cuda.lost = False
    monkeypatch.setattr(fit_head, "get_fit", lambda _name: lambda _: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train_head("knn", problem)


def test_few_products_and_apples_gpus_are_left_to_the_cores(monkeypatch):
    assert product_device(CUDA, 10).type == "cuda"
    assert product_device(torch.device("mps"), 1 << 40).type == "cpu"
    monkeypatch.setattr(devices, "_PAYS_FROM", 100)
    assert [product_device(CUDA, size).type for size in (99, 100)] == ["cpu", "cuda"]

"""Features larger than memory: heads that stream them end where they end with all in memory, and in the bounds given."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cache.errors import DataError, UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows, StreamedFeatureRows, require_learnable
from stages.fitting.fit_head import head_probabilities, train_head
from tests.stages.fitting.rows_of_digits import TEN_CLASSES, digits, fit_problem, numbered_classes
from tests.stages.fitting.stored_rows import MEMORY, stored

OPTIONS = HeadConfig(cv=0, fit_epochs=15, fit_lr=(1e-2,), c_values=(1e-3, 1e-1), scalers=("standard",))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Train and validation of the digits in memory and streamed, in one cache and in two that are joined."""
    parts = digits()
    features = np.concatenate([part.features for part in parts])
    root = tmp_path_factory.mktemp("caches")
    cache, keys = stored(root, "whole", features)
    halves = [stored(root, f"half {at}", features[:, at : at + 32])[0] for at in (0, 32)]
    ends = np.cumsum([0, *map(len, parts)])
    streams = {}
    for name, stores in (("one cache", [cache]), ("two caches", halves)):
        streams[name] = [
            StreamedFeatureRows(stores, keys[start:end], part.labels, MEMORY)
            for part, (start, end) in zip(parts, pairwise(ends), strict=True)
        ]
    return {"memory": list(parts), **streams}


@pytest.mark.parametrize("where", ["one cache", "two caches"])
def test_streamed_rows_are_the_rows(splits, where):
    local, streamed = splits["memory"][0], splits[where][0]
    assert streamed.row_shape == (64,)
    assert np.array_equal(np.concatenate([block for _, block in streamed.blocks()]), local.features)
    seen = []
    for indices, block in streamed.shuffled(100, seed=3):
        assert np.array_equal(block, local.features[indices])
        seen += indices.tolist()
    assert sorted(seen) == list(range(len(local)))
    assert seen != sorted(seen)
    joined = streamed + splits[where][1]
    assert np.array_equal(joined.labels, np.concatenate([local.labels, splits["memory"][1].labels]))
    assert np.array_equal(joined.read(np.array([len(local)])), splits["memory"][1].features[:1])


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_a_linear_model_is_the_same_streamed(splits, name):
    local, streamed = (
        train_head(name, fit_problem(*splits[where][:2], classes=10, options=replace(OPTIONS, scalers=("l2", "none"))))
        for where in ("memory", "two caches")
    )
    assert [streamed.settings[name] for name in ("C", "scaler")] == [local.settings[name] for name in ("C", "scaler")]
    scores = [[each["score"] for each in trained.selection] for trained in (local, streamed)]
    np.testing.assert_allclose(*scores, atol=0.01)  # of 315 images, by fits that end early
    for module in ("module", "module_train_only"):
        said = [
            head_probabilities(getattr(trained, module), splits["memory"][2], TEN_CLASSES)
            for trained in (local, streamed)
        ]
        np.testing.assert_allclose(*said, atol=1e-4)


@pytest.mark.parametrize("name", ["ridge", "ncm"])
def test_a_closed_head_is_the_same_streamed(splits, name):
    local, streamed = (
        train_head(name, fit_problem(*splits[where][:2], classes=10, options=OPTIONS))
        for where in ("memory", "two caches")
    )
    assert streamed.settings == pytest.approx(local.settings)
    assert torch.allclose(streamed.module.output.weight, local.module.output.weight, atol=1e-5)


@pytest.mark.parametrize("scaler", ["none", "standard", "l2"])
def test_a_kernel_is_the_same_streamed(splits, scaler):
    options = replace(OPTIONS, scalers=(scaler,), nystroem_components=150)
    local, streamed = (
        train_head("kernel_ridge", fit_problem(*splits[where][:2], classes=10, options=options))
        for where in ("memory", "two caches")
    )
    temperatures = [trained.settings.pop("temperature") for trained in (streamed, local)]
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-4)
    assert streamed.settings == local.settings
    assert [each["score"] for each in streamed.selection] == [each["score"] for each in local.selection]
    for module in ("module", "module_train_only"):
        said = [
            head_probabilities(getattr(trained, module), splits["memory"][2], TEN_CLASSES)
            for trained in (local, streamed)
        ]
        np.testing.assert_allclose(*said, atol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "linear", "mlp", "cosine", "concat"])
def test_a_head_that_goes_over_the_rows_is_as_accurate_streamed(splits, name):
    test = splits["memory"][2]
    accuracies = []
    for where in ("memory", "one cache"):
        trained = train_head(name, fit_problem(*splits[where][:2], classes=10, options=OPTIONS))
        accuracies.append(
            (head_probabilities(trained.module, splits[where][2], TEN_CLASSES).argmax(axis=1) == test.labels).mean()
        )
    assert min(accuracies) > 0.9
    assert abs(accuracies[0] - accuracies[1]) < 0.02  # of 540 images: other orders of the rows


@pytest.mark.parametrize("name", ["rbf", "knn"])
def test_a_head_that_needs_all_rows_says_which_do_not(splits, name):
    with pytest.raises(UsageError, match="streams them: kernel_ridge, logistic, ncm, ridge, sgd, svm, attention"):
        train_head(name, fit_problem(*splits["one cache"][:2], classes=10, options=OPTIONS))


def test_memory_in_which_rows_cannot_be_mixed_is_refused_with_its_option(tmp_path):
    features = np.zeros((30, 8), np.float16)
    cache, keys = stored(tmp_path, "small", features)
    rows = StreamedFeatureRows([cache], keys, np.arange(30) % 2, 50_000)
    with pytest.raises(UsageError, match=r"`max_memory_gb` 5e-05: 50,000 bytes .* allow at least [\d,]+ bytes"):
        next(rows.shuffled(10, 0))


def test_balanced_sampling_of_streamed_rows_is_refused(splits):
    with pytest.raises(UsageError, match="`class_weights` balanced"):
        train_head(
            "linear", fit_problem(*splits["one cache"][:2], classes=10, options=replace(OPTIONS, sampling="balanced"))
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(dtype, bad):
    features = np.ones((40, 6), dtype)
    features[[3, 17], [0, 5]] = bad
    rows = FeatureRows(features, np.arange(40) % 2)
    good = FeatureRows(np.ones((40, 6), dtype), np.arange(40) % 2)
    with pytest.raises(DataError, match="rows 3, 17 of the train split"):
        require_learnable(rows, good, numbered_classes(2))
    with pytest.raises(DataError, match="rows 3, 17 of the validation split"):
        require_learnable(good, rows, numbered_classes(2))

"""Rows of several parts: each has the weight that it deserves, and a head takes rows as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import FitProblem, head_probabilities, train_head
from stages.fitting.problem import RowBlocks
from stages.network.heads.serialization import load_head, save_head
from stages.tasks.single_label import SingleLabel

WIDTH = 60
BLOCKS = RowBlocks(WIDTH, (("columns", 2),))


def rows_of(count, seed):
    """Features that tell little in many loud numbers, and one column of two that tells much in a quiet one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=count)
    images = rng.normal(size=(count, WIDTH)) + 0.12 * labels[:, None]
    columns = np.stack([labels + rng.normal(scale=0.6, size=count), rng.normal(size=count)], axis=1)
    return FeatureRows(np.concatenate([30 * images + 5, columns], axis=1).astype(np.float32), labels)


TRAIN, VAL, TEST = (rows_of(count, seed) for seed, count in enumerate((150, 60, 2000)))


def problem_of(columns=slice(None), blocks=BLOCKS, **options):
    train, val = (replace(part, features=part.features[:, columns]) for part in (TRAIN, VAL))
    config = HeadConfig(
        **{"c_values": (1e-4, 1e-3, 1e-2, 1e-1), "fit_epochs": 30, "hidden_dim": 32, "cv": 2, **options}
    )
    return FitProblem(train, val, SingleLabel(("a", "b")), config, 0, torch.device("cpu"), blocks=blocks)


def accuracy(trained, columns=slice(None)):
    rows = replace(TEST, features=TEST.features[:, columns])
    probabilities = head_probabilities(trained.module, rows, SingleLabel(("a", "b")))
    return float((probabilities.argmax(axis=1) == rows.labels).mean())


@pytest.mark.parametrize("name", ["logistic", "ridge"])
def test_columns_count_beside_a_thousand_loud_numbers(name):
    joined = train_head(name, problem_of())
    only_columns = train_head(name, problem_of(slice(WIDTH, None), RowBlocks(0, BLOCKS.columns)))
    only_images = train_head(name, problem_of(slice(0, WIDTH), None))
    under_one_penalty = train_head(name, problem_of(blocks=None, scalers=("none",)))
    best = max(accuracy(only_columns, slice(WIDTH, None)), accuracy(only_images, slice(0, WIDTH)))
    assert accuracy(joined) >= best
    assert accuracy(joined) > accuracy(under_one_penalty)


@pytest.mark.parametrize("name", ["rbf", "mlp"])
def test_a_head_that_was_saved_takes_rows_as_they_are(tmp_path, name):
    trained = train_head(name, problem_of())
    save_head(tmp_path / "head", trained.module, {})
    loaded, _ = load_head(tmp_path / "head")
    task = SingleLabel(("a", "b"))
    assert np.array_equal(head_probabilities(loaded, TEST, task), head_probabilities(trained.module, TEST, task))
    assert accuracy(trained) > 0.75

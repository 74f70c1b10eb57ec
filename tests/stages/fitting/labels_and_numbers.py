"""Rows with several labels each, some of them unknown, and rows with numbers: small, and soon learned."""

import numpy as np
import torch

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.problem import FitProblem
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression


def labelled(count=120, width=12, labels=4, *, unknown=0.0, seed=0):
    """Return rows float32 [n, d] and labels float32 [n, labels], each the side of a noisy plane, the last ones rare."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, width)).astype(np.float32) * generator.uniform(0.3, 3, width) + 1
    scores = (rows - 1) @ generator.normal(size=(width, labels)) + generator.normal(size=(count, labels))
    cutoffs = np.quantile(scores, np.linspace(0.4, 0.8, labels), axis=0).diagonal()
    targets = (scores > cutoffs).astype(np.float32)
    targets[generator.random(targets.shape) < unknown] = np.nan
    return rows.astype(np.float32), targets


def numbered(count=120, width=12, targets=2, *, unknown=0.0, seed=0):
    """Return rows float32 [n, d] and standardized numbers float64 [n, targets], bent a little."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, width)).astype(np.float32) * generator.uniform(0.3, 3, width) + 1
    values = (rows - 1) @ generator.normal(size=(width, targets)) / 4 + 0.3 * generator.normal(size=(count, targets))
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    values[generator.random(values.shape) < unknown] = np.nan
    return rows.astype(np.float32), values


def label_task(count):
    """Return the task of labels that are called by letters."""
    return MultiLabel([*"abcdefghijkl"][:count])


def number_task(count):
    """Return the task of numbers that are standardized already."""
    return Regression(tuple("stuvw"[:count]), (0.0,) * count, (1.0,) * count)


def problem_of(rows, targets, *, options=HeadConfig(), share=0.75, groups=None, seed=0):
    """Return what a head is fitted to: labels where targets are float32, numbers where they are float64."""
    task = (label_task if targets.dtype == np.float32 else number_task)(targets.shape[1])
    size = int(share * len(rows))
    train, val = (
        FeatureRows(rows[part], targets[part], groups=None if groups is None else groups[part])
        for part in (slice(size), slice(size, None))
    )
    return FitProblem(train, val, task, options, seed, torch.device("cpu"))

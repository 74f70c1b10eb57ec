"""Features whose answer is known: scikit-learn's digits as rows of a train, a validation and a test split."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.problem import FitProblem
from stages.tasks.single_label import SingleLabel

TEN_CLASSES = SingleLabel("0123456789")
"""What heads are asked by; probabilities of fewer classes follow in the same way."""


def digits(classes=10, dtype=np.float16):
    features, labels = load_digits(return_X_y=True, n_class=classes)
    features = (features / 16).astype(dtype)
    rest, test, rest_labels, test_labels = train_test_split(
        features, labels, test_size=0.3, random_state=0, stratify=labels
    )
    train, val, train_labels, val_labels = train_test_split(
        rest, rest_labels, test_size=0.25, random_state=0, stratify=rest_labels
    )
    return FeatureRows(train, train_labels), FeatureRows(val, val_labels), FeatureRows(test, test_labels)


def skewed(count=600, width=40, classes=3, seed=0):
    """Return rows [n, d] float32 like those after a ReLU, of classes of unlike sizes, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    means = generator.normal(size=(classes, width))
    rows = np.maximum(0.4 * means[labels] + generator.normal(size=(count, width)) + 0.3, 0)
    return (rows * generator.uniform(0.2, 5, width)).astype(np.float32), labels.astype(np.int64)


def numbered_classes(count):
    """Return the task of so many classes, called by their numbers."""
    return SingleLabel([str(number) for number in range(count)])


def fit_problem(train, val, *, classes, options=HeadConfig(), seed=0):
    """Return what a head is fitted to, for classes that are called by their numbers."""
    return FitProblem(train, val, numbered_classes(classes), options, seed, torch.device("cpu"))

"""How well heads do on rows they were not fitted to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from stages.fitting.feature_rows import AnyFeatureRows, in_batches
from stages.network.heads.base import Head
from stages.training.evaluation import predict


def selection_score(scores: NDArray[np.floating], labels: NDArray[np.int64], balanced: bool) -> float:
    """Return the accuracy of scores [n, classes]; `balanced`, the mean over the classes of their recall."""
    predicted = scores.argmax(axis=1)
    return float(balanced_accuracy_score(labels, predicted) if balanced else (predicted == labels).mean())


def logits(head: Head, rows: AnyFeatureRows) -> NDArray[np.float32]:
    """Return the logits of a head, float32 [n, classes], for rows block by block."""
    blocks = (torch.from_numpy(block) for _, block in in_batches(rows))
    return np.asarray(predict(head, blocks, None).numpy())

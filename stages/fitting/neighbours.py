"""k nearest neighbours by cosine: nothing is fitted but k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.fitted import Fitted
from stages.fitting.protocol import Protocol
from stages.fitting.rows import Rows
from stages.fitting.scoring import score_of
from stages.network.heads import KNNHead

_ROWS_AT_ONCE = 1024


@torch.inference_mode()
def fit_neighbours(
    train: Rows, val: Rows, numbers: Sequence[int], num_classes: int, scoring: Protocol, *, balanced: bool
) -> Fitted:
    """Return the k-nearest-neighbour head; each k is scored by votes among the same similarities."""
    both = train + val
    features, labels = both.features, both.labels
    fewest = min(len(labels[fitted]) for fitted, _ in scoring.pairs)
    numbers = sorted({min(k, fewest) for k in numbers})
    scores: dict[int, list[float]] = {k: [] for k in numbers}
    for fitted, scored in scoring.pairs:
        head = KNNHead.from_rows(features[fitted], labels[fitted], num_classes, numbers[-1])
        votes = _votes(head, features[scored], numbers)
        for k in numbers:
            scores[k].append(score_of(votes[k], labels[scored], balanced))
    tried = [{"k": k, "score": float(np.mean(scores[k]))} for k in numbers]
    chosen = max(tried, key=lambda one: (one["score"], -one["k"]))
    whole, without_val = (
        KNNHead.from_rows(features[: len(part)], labels[: len(part)], num_classes, int(chosen["k"]))
        for part in (labels, train)
    )
    settings = {**chosen, "selected by": scoring.words}
    return Fitted(whole, without_val, settings, tried)


def _votes(head: KNNHead, features: NDArray[Any], numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Return the logits [n, classes] of rows for every k."""
    found: dict[int, list[NDArray[np.float32]]] = {k: [] for k in numbers}
    for at in range(0, len(features), _ROWS_AT_ONCE):
        similarity, nearest = head.nearest(torch.from_numpy(features[at : at + _ROWS_AT_ONCE]).float())
        for k in numbers:
            found[k].append(head.vote(similarity[:, :k], nearest[:, :k]).numpy())
    return {k: np.concatenate(parts) for k, parts in found.items()}

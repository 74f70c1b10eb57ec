"""k nearest neighbours by cosine: nothing is fitted but k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.fitting.folds import CVPlan
from stages.fitting.out_of_fold import OutOfFold, best_on_others, collect
from stages.fitting.problem import FitProblem
from stages.fitting.registry import register_head
from stages.fitting.result import HeadFit
from stages.fitting.scores import selection_score
from stages.network.heads.knn import KNNHead, VotesFor
from stages.runtime.device import product_device

_ROWS_AT_ONCE = 1024


@register_head(
    "knn",
    label="kNN",
    tasks=("single_label", "multi_label", "regression"),
    saved_as="stages.network.heads.knn:KNNHead",
    cost=0.3,
)
@torch.inference_mode()
def fit_knn(problem: FitProblem) -> HeadFit:
    """Nearest neighbors by cosine: classes and labels by vote, numbers by their mean.

    Each number of them is scored by votes among the same similarities.
    """
    train, val = problem.in_memory
    scoring, out_features = problem.cv, problem.task.out_features
    votes_for: VotesFor = "classes"
    if problem.labels.ndim > 1:
        votes_for = "values" if problem.task.outputs == "values" else "labels"
    train_val = train + val
    features, labels = train_val.features, train_val.labels
    fewest = min(len(labels[fitted]) for fitted, _ in scoring.splits)
    device = product_device(problem.device, features.size * len(labels))
    numbers = sorted({min(k, fewest) for k in problem.config.n_neighbors})

    def votes_of(plan: CVPlan) -> list[dict[int, NDArray[np.float32]]]:
        """Return the votes for the rows of each fold, of every number of neighbors."""
        heads = (
            KNNHead.from_rows(
                features[fitted], labels[fitted], out_features, min(numbers[-1], len(labels[fitted])), votes_for
            ).to(device)
            for fitted, _ in plan.splits
        )
        return [_votes(head, features[scored], numbers) for head, (_, scored) in zip(heads, plan.splits, strict=True)]

    def scores_of(plan: CVPlan, votes: Sequence[dict[int, NDArray[np.float32]]]) -> NDArray[np.float64]:
        """Return the scores of the votes, [numbers, folds]."""
        true = [labels[scored] for _, scored in plan.splits]
        return np.array(
            [
                [selection_score(problem.task, part[k], of_fold) for part, of_fold in zip(votes, true, strict=True)]
                for k in numbers
            ]
        )

    votes = votes_of(scoring)
    scores = scores_of(scoring, votes)

    def fold() -> OutOfFold | None:
        if not problem.divisions:
            return None
        outputs = []
        for plan in problem.divisions:
            of_plan = votes if plan is scoring else votes_of(plan)
            picks = best_on_others(scores if plan is scoring else scores_of(plan, of_plan))
            outputs.append([part[numbers[pick]] for part, pick in zip(of_plan, picks, strict=True)])
        return collect(problem, outputs)

    candidates = [{"k": k, "score": float(np.mean(row))} for k, row in zip(numbers, scores, strict=True)]
    best = max(candidates, key=lambda candidate: (candidate["score"], -candidate["k"]))
    final_head, without_val = (
        KNNHead.from_rows(features[:size], labels[:size], out_features, min(int(best["k"]), size), votes_for)
        for size in (len(labels), len(train))  # a fold may be fitted to more rows than train has
    )
    settings = {**best, "selected by": scoring.description}
    return HeadFit(final_head, without_val, settings, candidates, fold=torch.inference_mode()(fold))


def _votes(head: KNNHead, features: NDArray[Any], numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Return the logits [n, classes] of rows for every k."""
    logits: dict[int, list[NDArray[np.float32]]] = {k: [] for k in numbers}
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = torch.from_numpy(features[start : start + _ROWS_AT_ONCE]).to(head.support.device).float()
        similarity, nearest = head.nearest(rows)
        for k in numbers:
            logits[k].append(head.vote(similarity[:, :k], nearest[:, :k]).cpu().numpy())
    return {k: np.concatenate(parts) for k, parts in logits.items()}

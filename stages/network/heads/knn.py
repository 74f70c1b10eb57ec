"""k nearest neighbors by cosine, as a module that holds its rows."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional

from cache.errors import UsageError
from stages.network.heads.base import Head, vector_width
from stages.runtime.products import linear
from stages.runtime.topk import merge_topk

VotesFor = Literal["classes", "labels", "values"]


class KNNHead(Head):
    """A weighted vote of the most similar stored rows: float [b, d] -> logits or values [b, out_features].

    The k rows of highest cosine similarity s vote for their classes with the weight exp(s / temperature) (Wu et al.
    2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; as DINO evaluates
    features). The logits are the logarithms of the classes' shares of the vote, so their softmax is these shares; a
    class without a vote has the share `FLOOR`.

    Of several labels the logit is that of the share of the vote that is for the label, between `FLOOR` and 1 less that;
    of numbers it is the weighted mean. Neighbors of which a label or number is not known have no vote in it; where none
    has, all stored rows have one.

    Rows are compared with `COMPARED_AT_ONCE` stored ones at a time, so memory grows with the batch alone. Lengths have
    no effect, so there is no ``l2`` to choose.

    Parameters
    ----------
    support
        How many rows are stored.
    k
        How many of them vote.
    dtype
        Type they are stored in; they are compared in float32.
    votes_for
        One class a row, several labels, or numbers.
    """

    TEMPERATURE = 0.07
    FLOOR = 1e-6
    COMPARED_AT_ONCE = 8192

    support: torch.Tensor
    labels: torch.Tensor

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        support: int,
        k: int,
        dtype: Literal["float16", "float32"] = "float32",
        votes_for: VotesFor = "classes",
    ) -> None:
        told = {} if votes_for == "classes" else {"votes_for": votes_for}  # heads for classes were saved without it
        super().__init__("knn", row_shape, out_features, support=support, k=k, dtype=dtype, **told)
        if not 1 <= k <= support:
            raise UsageError(
                f"`head` knn: {k} neighbours cannot be found among {support} rows; ask for 1 to {support}."
            )
        self.k = k
        width = vector_width("knn", row_shape)
        self.register_buffer("support", torch.zeros(support, width, dtype=getattr(torch, dtype)))
        self.votes_for = votes_for
        self.register_buffer(
            "labels",
            torch.zeros(support, dtype=torch.int64) if votes_for == "classes" else torch.zeros(support, out_features),
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.TEMPERATURE)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        return self.vote(*self.nearest(rows))

    def vote(self, similarity: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """Return the outputs [b, out_features] that rows with these similarities and places, [b, any], vote for."""
        votes = (similarity / self.log_temperature.exp()).softmax(dim=1)
        if self.votes_for != "classes":
            means = self._means(votes, nearest)
            return means.clamp(self.FLOOR, 1 - self.FLOOR).logit() if self.votes_for == "labels" else means
        empty = votes.new_zeros(votes.shape[0], self.config["out_features"])
        shares = empty.scatter_add(1, self.labels[nearest], votes)
        return shares.clamp_min(self.FLOOR).log()

    def _means(self, votes: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """Return the mean of what is known of the nearest rows, each with its vote, [b, out_features]."""
        targets = self.labels[nearest]
        known = ~targets.isnan()
        weights = votes[:, :, None] * known
        total = weights.sum(dim=1)
        means = (weights * targets.nan_to_num(0.0)).sum(dim=1) / total.clamp_min(torch.finfo(total.dtype).tiny)
        return torch.where(total > 0, means, self.labels.nanmean(dim=0).nan_to_num(0.0))

    def nearest(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return similarities, float32 [b, k], and numbers, int64 [b, k], of the most similar rows, these first."""
        rows = functional.normalize(rows, dim=1)
        best = rows.new_empty(rows.shape[0], 0)
        indices = torch.empty(rows.shape[0], 0, dtype=torch.int64, device=rows.device)
        for start in range(0, len(self.support), self.COMPARED_AT_ONCE):
            stored = self.support[start : start + self.COMPARED_AT_ONCE].to(rows.dtype)
            best, indices = merge_topk(best, indices, linear(rows, stored), start, self.k)
        return best, indices

    @classmethod
    def from_rows(
        cls, rows: ArrayLike, labels: ArrayLike, out_features: int, k: int, votes_for: VotesFor = "classes"
    ) -> KNNHead:
        """Return the head that looks among these rows.

        Parameters
        ----------
        rows
            [m, d]; float16 is stored as float16, any other type as float32.
        labels
            Integers [m] in [0, out_features); of labels and numbers floats [m, out_features], nan where not known.
        k
            How many neighbours vote.

        Raises
        ------
        UsageError
            If there are fewer than k rows, or they are no vectors.
        """
        stored = torch.from_numpy(np.asarray(rows))
        dtype: Literal["float16", "float32"] = "float16" if stored.dtype == torch.float16 else "float32"
        head = cls(tuple(stored.shape[1:]), out_features, len(stored), k, dtype, votes_for)
        for start in range(0, len(stored), cls.COMPARED_AT_ONCE):
            part = slice(start, start + cls.COMPARED_AT_ONCE)
            head.support[part] = functional.normalize(stored[part].float(), dim=1)
        head.labels.copy_(torch.from_numpy(np.asarray(labels)))
        return head

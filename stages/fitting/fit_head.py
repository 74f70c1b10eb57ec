"""Stage 2: cached features + labels -> a head, selected without the test split, which never enters this module.

Every head ends as a torch module: a linear scikit-learn model is folded, with its scaler, into one ``nn.Linear``, so
that saving, joining to the trunk and starting a fine-tuning from it need neither scikit-learn nor pickle. How each kind
is fitted, and its settings are chosen, is told in ``stages/fitting``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.config.heads import HeadConfig, HeadName
from stages.fitting.feature_rows import (
    AnyFeatureRows,
    FeatureRows,
    StreamedFeatureRows,
    in_memory,
    require_learnable,
    require_vector_rows,
)
from stages.fitting.fit_knn import fit_knn
from stages.fitting.fit_rbf_svm import RBFSVMFactory
from stages.fitting.folds import CVPlan, make_cv
from stages.fitting.grid_search import MakeModel, refit_best, search
from stages.fitting.linear_models import LinearModelFactory
from stages.fitting.ncm import fit_ncm
from stages.fitting.result import HeadFit
from stages.fitting.ridge import fit_ridge
from stages.fitting.sgd import fit_sgd
from stages.fitting.torch_heads import fit_torch_head
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.heads.base import Head
from stages.network.heads.registry import build_head
from stages.training.train_loop import Epoch, evaluate_loss

__all__ = ["FeatureRows", "HeadResult", "StreamedFeatureRows", "head_method", "head_probabilities", "train_head"]

LINEAR_METHODS = ("logistic", "svm", "ridge", "ncm", "sgd")
"""Fitted models that are linear in the features."""

FITTED = (*LINEAR_METHODS, "rbf", "knn")
"""Heads that are fitted; all others train in epochs."""


@dataclass
class HeadResult:
    """A head, what was tried to get it, and how it validates.

    Attributes
    ----------
    module : Head
        Features [b, *row_shape] -> logits [b, classes]; what is tested and used. Refitted on train+validation with the
        selected setting.
    module_train_only : Head
        The same head fitted on train alone: what fine-tuning starts from, since it validates on the validation split.
    val_accuracy, val_loss : float
        Of `module_train_only` on the validation split.
    settings : dict
        What was chosen.
    selection : list of dict
        Everything that was tried, with its ``score``.
    history : list of Epoch
        Of torch heads; empty for closed fits.
    """

    name: HeadName
    module: Head
    module_train_only: Head
    val_accuracy: float
    val_loss: float
    settings: dict[str, Any] = field(default_factory=dict)
    selection: list[dict[str, Any]] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)

    @property
    def method(self) -> Literal["linear", "head"]:
        """The method of transfer this head is compared as."""
        return head_method(self.name)

    @property
    def trainable_parameters(self) -> int:
        """Parameters of the head."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def head_method(name: HeadName) -> Literal["linear", "head"]:
    """Return the method of transfer a head is compared as: a linear model on the features, or a head beyond that."""
    return "linear" if name in LINEAR_METHODS else "head"


def train_head(
    name: HeadName,
    options: HeadConfig,
    train: AnyFeatureRows,
    val: AnyFeatureRows,
    num_classes: int,
    seed: int,
    device: torch.device,
    *,
    graph: CutGraph | None = None,
    cut: Cut | None = None,
) -> HeadResult:
    """Train the head called `name` on cached features.

    Parameters
    ----------
    graph, cut
        The network, and the cut whose output the rows are: what the head ``top`` is made of.

    Raises
    ------
    UsageError
        If the head does not fit the shape of the features, or cannot stream them.
    DataError
        If a split is empty, train holds fewer than two classes, or features are not finite.
    """
    require_learnable(train, val)
    balanced = options.class_weights == "balanced"
    if name not in FITTED:
        l2 = options.fit_scaler == "l2"
        build = partial(build_head, name, train.row_shape, num_classes, options.hidden_dim, options.dropout)
        done = fit_torch_head(partial(build, l2=l2, graph=graph, cut=cut), options, train, val, seed, device)
        return _trained(name, done, val)
    require_vector_rows(name, train.row_shape)
    if name == "ncm":
        return _trained(name, fit_ncm(train, val, options.scalers, num_classes, balanced=balanced), val)
    if name == "sgd":
        tried = options.c_values, options.scalers
        return _trained(name, fit_sgd(train, val, *tried, num_classes, balanced=balanced, seed=seed), val)
    scoring = _protocol(options, train, val, seed)
    if name == "ridge":
        tried = options.c_values, options.scalers
        return _trained(name, fit_ridge(train, val, *tried, num_classes, scoring, balanced=balanced), val)
    here, val_here = in_memory(name, train), in_memory(name, val)
    if name == "knn":
        numbers = options.n_neighbors
        return _trained(name, fit_knn(here, val_here, numbers, num_classes, scoring, balanced=balanced), val)
    return _trained(name, _search_path(name, options, here, val_here, num_classes, seed, scoring), val)


@torch.inference_mode()
def head_probabilities(
    module: nn.Module, rows: NDArray[Any] | AnyFeatureRows, batch_rows: int = 1024
) -> NDArray[np.float32]:
    """Return the probabilities, float32 [n, classes], a head gives to cached features [n, *row_shape]."""
    module.eval()
    device = next(module.parameters()).device
    blocks = [rows] if isinstance(rows, np.ndarray) else (block for _, block in rows.blocks())
    parts = (block[at : at + batch_rows] for block in blocks for at in range(0, len(block), batch_rows))
    return torch.cat([module(torch.from_numpy(part).to(device).float()).softmax(dim=1).cpu() for part in parts]).numpy()


def _search_path(
    name: HeadName,
    options: HeadConfig,
    train: FeatureRows,
    val: FeatureRows,
    num_classes: int,
    seed: int,
    scoring: CVPlan,
) -> HeadFit:
    """Fit a model along a path of C, under several scalings."""
    labels = np.concatenate([train.labels, val.labels])
    rows = _float32(train, val)
    center = rows[: len(train)].mean(axis=0, dtype=np.float64).astype(np.float32)
    rows -= center
    balanced = options.class_weights == "balanced"
    make: MakeModel
    if name == "rbf":
        make = RBFSVMFactory(num_classes, center, seed, options.nystroem_components, balanced)
    else:
        make = LinearModelFactory("logistic" if name == "logistic" else "hinge", num_classes, center, balanced)
    found = search(make, options.c_values, options.scalers, rows, labels, scoring, balanced=balanced, seed=seed)
    part = slice(0, len(train))
    return refit_best(make, found, rows, labels, part, scoring, calibrate=name != "logistic")


def _protocol(options: HeadConfig, train: AnyFeatureRows, val: AnyFeatureRows, seed: int) -> CVPlan:
    """Return how settings are scored; streamed rows are not cross-validated."""
    labels = np.concatenate([train.labels, val.labels])
    if isinstance(train, StreamedFeatureRows) or isinstance(val, StreamedFeatureRows):
        return make_cv(replace(options, cv=0), len(train), labels, seed)
    groups = None
    if train.groups is not None and val.groups is not None:
        groups = np.concatenate([train.groups, val.groups])
    return make_cv(options, len(train), labels, seed, groups)


def _trained(name: HeadName, done: HeadFit, val: AnyFeatureRows) -> HeadResult:
    val_loss, val_accuracy = evaluate_loss(done.head_train_only, _in_order(val))
    settings = {"refitted on": "train+val", **done.settings}
    return HeadResult(
        name, done.head, done.head_train_only, val_accuracy, val_loss, settings, done.candidates, done.history
    )


def _in_order(rows: AnyFeatureRows, batch_rows: int = 1024) -> Iterator[tuple[Tensor, Tensor]]:
    for places, block in rows.blocks():
        for at in range(0, len(places), batch_rows):
            inputs = torch.from_numpy(block[at : at + batch_rows]).float()
            yield inputs, torch.from_numpy(rows.labels[places[at : at + batch_rows]])


def _float32(train: FeatureRows, val: FeatureRows) -> NDArray[np.float32]:
    """Return the features of both splits in one new array, converted by torch, which takes a tenth of NumPy's time."""
    rows = np.empty((len(train) + len(val), *train.row_shape), dtype=np.float32)
    for part, of_part in ((rows[: len(train)], train), (rows[len(train) :], val)):
        torch.from_numpy(part).copy_(torch.from_numpy(of_part.features))
    return rows

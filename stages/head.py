"""Stage 2: cached features + labels -> a head, selected without the test split, which never enters this module.

Every head ends as a torch module: a linear scikit-learn model is folded, with its scaler, into one ``nn.Linear``, so
that saving, joining to the trunk and starting a fine-tuning from it need neither scikit-learn nor pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cache.errors import DataError, UsageError
from stages.machine import single_threaded
from stages.network.heads import Head as HeadModule
from stages.network.heads import KernelHead, LinearHead, build_head
from stages.options import Head, HeadName
from stages.training.loop import Epoch, evaluate_loss, fit
from stages.training.schedules import make_schedule, parameter_groups

Scaling = Literal["none", "standard"]
FoldedHead = LinearHead | KernelHead

FOLDS_UP_TO = 10_000
"""Samples up to which settings are cross-validated by default; above, the validation split is precise enough."""

KERNEL_UP_TO = 10_000
"""Samples up to which a kernel machine is trained: its time grows with their square, its head with their number."""

CLEARLY_WORSE = 0.005
"""Accuracy below the best that ends a path over C, once two values in a row are lower than that."""


@dataclass(frozen=True)
class Rows:
    """Features [n, ...] (float16 or float32) and integer labels [n] of one split.

    `augmented` are features of the same shape of other views of the same samples. Heads that train in epochs are shown
    one of all views of each sample at a time; closed fits see the evaluation view alone.
    """

    features: NDArray[Any]
    labels: NDArray[np.int64]
    augmented: Sequence[NDArray[Any]] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class TrainedHead:
    """A head, what was tried to get it, and how it validates.

    Attributes
    ----------
    module : LinearHead, KernelHead, MLPHead or ConcatHead
        Features [b, *row_shape] -> logits [b, classes]; what is tested and used. A linear head is refitted on
        train+validation with the selected setting.
    module_without_val : the same
        The same head fitted on train alone: what fine-tuning starts from, since it validates on the validation split.
    val_accuracy, val_loss : float
        Of `module_without_val` on the validation split.
    settings : dict
        What was chosen.
    selection : list of dict
        Everything that was tried, with its ``score`` (accuracy).
    history : list of Epoch
        Of torch heads; empty for closed fits.
    """

    name: HeadName
    module: HeadModule
    module_without_val: HeadModule
    val_accuracy: float
    val_loss: float
    settings: dict[str, Any] = field(default_factory=dict)
    selection: list[dict[str, Any]] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)

    @property
    def method(self) -> Literal["linear", "head"]:
        """The method of transfer this head is compared as."""
        return method_of(self.name)

    @property
    def trainable_parameters(self) -> int:
        """Parameters of the head."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def method_of(name: HeadName) -> Literal["linear", "head"]:
    """Return the method of transfer a head is compared as: a linear model on the features, or a head beyond that."""
    return "linear" if name in ("logistic", "svm") else "head"


def train_head(
    name: HeadName,
    options: Head,
    train: Rows,
    val: Rows,
    num_classes: int,
    seed: int,
    device: torch.device,
) -> TrainedHead:
    """Train the head called `name` on cached features.

    Raises
    ------
    UsageError
        If the head does not fit the shape of the features.
    DataError
        If a split is empty, or train holds fewer than two classes.
    """
    _require_learnable(train, val)
    if name in _MODELS:
        return _train_model(name, options, train, val, num_classes, seed)
    return _train_torch(name, options, train, val, num_classes, seed, device)


@torch.inference_mode()
def head_probabilities(module: nn.Module, features: NDArray[Any], batch_rows: int = 1024) -> NDArray[np.float32]:
    """Return the probabilities, float32 [n, classes], a head gives to cached features [n, *row_shape]."""
    module.eval()
    device = next(module.parameters()).device
    batches = (torch.from_numpy(features[at : at + batch_rows]) for at in range(0, len(features), batch_rows))
    return torch.cat([module(batch.to(device).float()).softmax(dim=1).cpu() for batch in batches]).numpy()


# -- scikit-learn models: closed fits over a grid ---------------------------------------------------------------------
#
# Cross-validation goes through joblib: threads here, or whatever backend the caller has chosen with parallel_config,
# which may be a cluster (docs/scale.md). So tasks are functions of this module, and large arrays are arguments of
# their own, which such a backend sends to its workers once per sweep and not with every task.


@contextmanager
def _one_thread_per_fit() -> Iterator[None]:
    """Fit on one thread, and without warnings of models at the weak end of the grid: their scores say enough.

    BLAS threads inside these small fits cost more than they bring; the fits themselves run side by side instead. The
    limit belongs to a process, so each task sets it where it runs; so does the caller, because tasks that are threads
    of one process would otherwise lift it for each other.
    """
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@contextmanager
def _as_one_task() -> Iterator[None]:
    """Fit on one thread where joblib has sent the task, and send no part of it on, as scikit-learn itself would."""
    with _one_thread_per_fit(), parallel_config("sequential"):
        yield


def _logistic(c: float, seed: int) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=500, warm_start=True, random_state=seed)


def _svm(c: float, seed: int) -> LinearSVC:
    return LinearSVC(C=c, dual="auto", tol=1e-3, max_iter=2000, random_state=seed)


def _rbf(c: float, seed: int) -> OneVsRestClassifier:
    return OneVsRestClassifier(SVC(C=1000 * c, kernel="precomputed", random_state=seed))


_MODELS: dict[str, Callable[[float, int], Any]] = {"logistic": _logistic, "svm": _svm, "rbf": _rbf}


class _Inputs:
    """What a model sees of features: scaled, and for a kernel machine compared with the rows it is fitted on.

    The kernel is computed once for all values of C. Its width is the common one, 1 / (d * variance of all numbers).
    """

    def __init__(self, name: HeadName, scaling: Scaling, features: NDArray[np.float32]) -> None:
        self.scaler = StandardScaler().fit(features) if scaling == "standard" else None
        self.rows = self._scaled(features) if name == "rbf" else None
        self.gamma = 1 / max(features.shape[1] * float(self._scaled(features).var()), 1e-12)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = self._scaled(features)
        return scaled if self.rows is None else np.asarray(rbf_kernel(scaled, self.rows, self.gamma), dtype=np.float32)

    def _scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return features if self.scaler is None else np.asarray(self.scaler.transform(features), dtype=np.float32)


def _train_model(name: HeadName, options: Head, train: Rows, val: Rows, num_classes: int, seed: int) -> TrainedHead:
    if train.features.ndim != 2:
        raise UsageError(
            f"the head {name} takes vectors, but the cached features have the shape {train.features.shape[1:]}; "
            "extract them with --pool avg (or max, avgmax, cls), or use --head concat"
        )
    features = np.concatenate([train.features, val.features]).astype(np.float32)
    labels = np.concatenate([train.labels, val.labels])
    if name == "rbf" and len(labels) > KERNEL_UP_TO:
        raise UsageError(
            f"--head rbf compares every sample with every other and is for up to {KERNEL_UP_TO:,} samples; "
            f"train+validation has {len(labels):,}: use logistic, svm or mlp"
        )
    folds, protocol = _folds(options, len(train), labels, seed)
    with _one_thread_per_fit():
        selection = _score_grid(name, options, features, labels, folds, seed)
        chosen = max(selection, key=lambda tried: (tried["score"], -tried["C"]))
        fit_head = partial(_fit_head, name, chosen, num_classes, seed)
        temperature = 1.0 if name == "logistic" else _temperature(fit_head, features, labels, folds, num_classes)
        module = fit_head(features, labels, slice(None), temperature)
        without_val = fit_head(features, labels, slice(len(train)), temperature)
    val_loss, val_accuracy = evaluate_loss(without_val, _in_order(val, torch.device("cpu")))
    settings = {**chosen, "selected by": protocol, "refitted on": "train+val"}
    if name != "logistic":
        settings["temperature"] = temperature
    return TrainedHead(name, module, without_val, val_accuracy, val_loss, settings, selection)


def _folds(
    options: Head, train_size: int, labels: NDArray[np.int64], seed: int
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], str]:
    """Return (fitted rows, scored rows) pairs, and the protocol in words."""
    rows = np.arange(len(labels))
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    wanted = options.folds if options.folds is not None else (5 if len(labels) <= FOLDS_UP_TO else 0)
    folds = min(wanted, rarest)
    if folds < 2:
        return [(rows[:train_size], rows[train_size:])], "validation split"
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(rows, labels)), f"{folds}-fold cross-validation on train+val"


def _score_grid(
    name: HeadName,
    options: Head,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
) -> list[dict[str, Any]]:
    """Return the settings that were tried with their mean accuracy over the folds.

    C goes upwards: a model that can starts from the one before, and the slow end of the grid is left out once two
    values in a row score clearly less than the best. One task takes one fold up the path until its own scores say
    so; where the mean over the folds does not yet, the folds that are behind go on.
    """
    values = sorted(options.regularisation)
    paths: dict[tuple[Scaling, int], tuple[Any, list[float]]] = {
        (scaling, fold): (_MODELS[name](1.0, seed), []) for scaling in options.scalers for fold in range(len(folds))
    }
    means: dict[Scaling, list[float]] = {}
    behind = list(paths)
    while behind:
        walked = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_walk)(name, values, scaling, *paths[scaling, fold], features, labels, *folds[fold])
            for scaling, fold in behind
        )
        paths.update(zip(behind, walked, strict=True))
        for scaling in options.scalers:
            means[scaling] = _mean_path([paths[scaling, fold][1] for fold in range(len(folds))])
        behind = [
            (scaling, fold)
            for (scaling, fold), (_, scores) in paths.items()
            if len(scores) == len(means[scaling]) < len(values) and not _past_the_best(means[scaling])
        ]
    return [
        {"C": value, "scaler": scaling, "score": score}
        for scaling in options.scalers
        for value, score in zip(values, means[scaling], strict=False)
    ]


@_as_one_task()
def _walk(
    name: HeadName,
    values: Sequence[float],
    scaling: Scaling,
    model: Any,
    scores: Sequence[float],
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    fitted: NDArray[np.int64],
    scored: NDArray[np.int64],
) -> tuple[Any, list[float]]:
    """Go on with one fold over the values of C that have no score yet; return the last model and all scores."""
    inputs = _Inputs(name, scaling, features[fitted])
    seen, held_out = inputs(features[fitted]), inputs(features[scored])
    inner = "estimator__C" if isinstance(model, OneVsRestClassifier) else "C"
    scores = list(scores)
    for value in values[len(scores) :]:
        model.set_params(**{inner: value * (1000 if name == "rbf" else 1)}).fit(seen, labels[fitted])
        scores.append(float(model.score(held_out, labels[scored])))
        if _past_the_best(scores):
            break
    return model, scores


def _mean_path(paths: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean score of each value of C that all folds have reached, up to where the path is past the best."""
    means: list[float] = []
    for scores in zip(*paths, strict=False):
        means.append(float(np.mean(scores)))
        if _past_the_best(means):
            break
    return means


def _past_the_best(scores: Sequence[float]) -> bool:
    return max(scores[-2:]) < max(scores) - CLEARLY_WORSE


@_as_one_task()
def _fit_head(
    name: HeadName,
    setting: dict[str, Any],
    num_classes: int,
    seed: int,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64] | slice,
    temperature: float = 1.0,
) -> FoldedHead:
    """Return a head with the setting that was chosen, fitted to some of the rows."""
    inputs = _Inputs(name, setting["scaler"], features[rows])
    model = _MODELS[name](setting["C"], seed).fit(inputs(features[rows]), labels[rows])
    return _as_torch(model, inputs, num_classes, temperature)


def _temperature(
    fit_head: Callable[..., FoldedHead],
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    num_classes: int,
) -> float:
    """Return what to divide margins by so that their softmax is a probability.

    Margins of a support vector machine are not logits. One temperature, fitted to the log loss of out-of-fold
    margins (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2), changes no prediction.
    """
    heads = Parallel(n_jobs=-1, prefer="threads")(delayed(fit_head)(features, labels, inside) for inside, _ in folds)
    with torch.inference_mode():
        margins = np.concatenate(
            [
                head(torch.from_numpy(features[outside])).double().numpy()
                for head, (_, outside) in zip(heads, folds, strict=True)
            ]
        )
    true = np.concatenate([labels[outside] for _, outside in folds])

    def loss(log_temperature: float) -> float:
        probabilities = softmax(margins / np.exp(log_temperature), axis=1)
        return float(log_loss(true, probabilities, labels=np.arange(num_classes)))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _as_torch(model: Any, inputs: _Inputs, num_classes: int, temperature: float) -> FoldedHead:
    """Return scaler + model as one torch head whose logits for the classes it saw are the model's own scores.

    A binary model has one row of scores, the second class against the first: its logits become (0, score). A class
    that is absent from the training rows gets a bias low enough that it is never predicted.
    """
    if inputs.rows is None:
        weight, bias = model.coef_.astype(np.float64), model.intercept_
    else:
        machines = model.estimators_
        weight = np.zeros((len(machines), len(inputs.rows)))
        for row, machine in zip(weight, machines, strict=True):
            row[machine.support_] = machine.dual_coef_[0]
        bias = np.concatenate([machine.intercept_ for machine in machines])
    if len(weight) == 1:
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.stack([np.zeros_like(bias[0]), bias[0]])
    weights, biases = np.zeros((num_classes, weight.shape[1])), np.full(num_classes, -1e4)
    weights[model.classes_], biases[model.classes_] = weight / temperature, bias / temperature
    mean, scale = (inputs.scaler.mean_, inputs.scaler.scale_) if inputs.scaler is not None else (None, None)
    if inputs.rows is None:
        return LinearHead.from_coefficients(weights, biases, mean, scale)
    used = np.flatnonzero(weights.any(axis=0))
    return KernelHead.from_support(inputs.rows[used], weights[:, used].T, biases, inputs.gamma, mean, scale)


# -- torch heads: epochs over rows in memory --------------------------------------------------------------------------


_ZERO, _ONE = torch.zeros(()), torch.ones(())


def _train_torch(
    name: HeadName, options: Head, train: Rows, val: Rows, num_classes: int, seed: int, device: torch.device
) -> TrainedHead:
    with torch.random.fork_rng(devices=[]), single_threaded():
        torch.manual_seed(seed)
        head = build_head(name, train.features.shape[1:], num_classes, options.hidden, options.dropout).to(device)
        mean, scale = _moments(train.features) if name in ("linear", "mlp") else (_ZERO, _ONE)
        steps_per_epoch = max(len(train) // options.head_batch_size, 1)
        groups = parameter_groups([(head, options.head_rate)], options.head_weight_decay)
        optimiser = torch.optim.AdamW(groups)
        schedule = make_schedule(optimiser, "onecycle", steps_per_epoch * options.head_epochs + 1, warmup=0.3)
        done = fit(
            head,
            optimiser,
            schedule,
            epochs=options.head_epochs,
            train_batches=lambda epoch: _shuffled(train, mean, scale, options.head_batch_size, seed, epoch, device),
            val_batches=lambda: _in_order(val, device, mean, scale),
            seed=seed,
            patience=options.patience,
        )
    if name in ("linear", "mlp"):
        _fold_scaler(head, mean, scale)
    assert done.best is not None
    settings = {
        "best epoch": done.best.epoch,
        "epochs run": done.history[-1].epoch,
        "rate": options.head_rate,
        "weight decay": options.head_weight_decay,
        "batch size": options.head_batch_size,
        "dropout": options.dropout,
        **({"hidden": options.hidden} if name != "linear" else {}),
    }
    head = head.cpu()
    return TrainedHead(name, head, head, done.best.val_accuracy, done.best.val_loss, settings, history=done.history)


def _moments(features: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [d] over the rows; features that never change keep their scale."""
    rows = torch.from_numpy(features).float()
    scale = rows.std(dim=0)
    return rows.mean(dim=0), torch.where(scale > 0, scale, torch.ones_like(scale))


def _fold_scaler(head: nn.Module, mean: Tensor, scale: Tensor) -> None:
    """Let the first linear layer take raw features: W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
    first = next(module for module in head.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        first.weight.div_(scale.to(first.weight.device))
        first.bias.sub_(first.weight @ mean.to(first.weight.device))


def _shuffled(
    rows: Rows,
    mean: Tensor,
    scale: Tensor,
    batch_size: int,
    seed: int,
    epoch: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield full batches of an epoch, order and views made of seed and epoch; the rest of fewer rows sits it out."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows), generator=generator).numpy()
    views = torch.randint(1 + len(rows.augmented), (len(rows),), generator=generator).numpy()
    size = min(batch_size, len(rows))
    for at in range(0, len(order) - size + 1, size):
        picked = order[at : at + size]
        features = rows.features[picked]
        for view, augmented in enumerate(rows.augmented, 1):
            shown = views[picked] == view
            features[shown] = augmented[picked[shown]]
        inputs = torch.from_numpy(features).float().sub(mean).div(scale)
        yield inputs.to(device), torch.from_numpy(rows.labels[picked]).to(device)


def _in_order(
    rows: Rows, device: torch.device, mean: Tensor = _ZERO, scale: Tensor = _ONE, batch_rows: int = 1024
) -> Iterator[tuple[Tensor, Tensor]]:
    for at in range(0, len(rows), batch_rows):
        inputs = torch.from_numpy(rows.features[at : at + batch_rows]).float().sub(mean).div(scale)
        yield inputs.to(device), torch.from_numpy(rows.labels[at : at + batch_rows]).to(device)


def _require_learnable(train: Rows, val: Rows) -> None:
    if not len(train) or not len(val):
        empty = "train" if not len(train) else "validation"
        raise DataError(
            f"the {empty} split holds no readable image; give more images, or other --val and --test shares"
        )
    if len(np.unique(train.labels)) < 2:
        raise DataError("the train split holds a single class; a classifier needs at least two")

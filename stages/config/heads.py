"""Which heads are fitted to cached features, and how (stage 2)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cache.errors import UsageError
from stages.config.bounds import require, require_at_least, require_choices, take_kinds
from stages.config.head_registry import (
    default_heads,
    describe_default_heads,
    describe_heads,
    describe_streaming_heads,
    find_head,
    require_known,
)
from stages.config.lists import take_lists
from stages.config.registry import COMMON, OptionHelp

_ATTENTION = ("mil",)
"""What `aggregate` attention is."""

HeadName = str
"""Of a head that is registered, or the import path of a module of the user's own, ``package.module:Class``."""

BlockWeight = Literal["dim", "sqrt", "equal"]

DepthSet = Literal["last", "stages", "blocks", "all"]

COLUMN_OPTIONS = ("columns", "categories", "texts", "log_columns", "impute", "category_min_count")
"""Options that say which columns of a table stand beside the images; a head on the images alone is as without them."""

ENSEMBLE = "ensemble"
"""The option that says what is made of several heads; each of these is as without it."""

DEPTHS = "depths"
"""The option that says which sets of them are tried; a head for which it says nothing is as before there was one."""

DEPTH_OPTIONS = ("block_weight", DEPTHS)
"""Options that say how features of several depths are joined; a head on one cut is as without them."""


@dataclass(frozen=True)
class FitRecipe:
    """How a torch head trains.

    Attributes
    ----------
    epochs : int
        At most.
    lr : tuple of float
        Highest rates that are tried.
    batch_size : int
        Rows a step.
    dropout : float
        Before the output.
    """

    epochs: int = 100
    lr: tuple[float, ...] = (1e-3,)
    batch_size: int = 64
    dropout: float = 0.5


@dataclass(frozen=True)
class HeadConfig:
    """What is trained on the cached features, and how it is selected (stage 2)."""

    head: tuple[HeadName, ...] = field(
        default=(),
        metadata=OptionHelp(
            lambda: (
                "Heads to train on the cached features, one result each. "
                f"{describe_heads()} Or your own package.module:Class, called with (row_shape, "
                f"out_features). Default: {describe_default_heads()}."
            ),
            COMMON,
        ),
    )

    c_values: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    """Values of C tried for logistic, svm, ridge (penalty 1 / 2C, and values between) and sgd, from the strongest
    regularisation; rbf and kernel_ridge try 1,000 times these. Weaker ones are left out once they score clearly
    worse."""

    scalers: tuple[Literal["none", "standard", "l2"], ...] = ("none", "standard")
    """Feature scalings tried for fitted models: none, standard (mean 0, variance 1; of few images a variance is held
    against those of the features beside it), l2 (vectors of length 1)."""

    cv: int | None = None
    """Folds of the cross-validation on train+validation that selects the settings of fitted models, groups kept
    together; 0 selects on the validation split (default: 5 up to 10,000 samples, else 0)."""

    block_weight: tuple[BlockWeight, ...] = ("sqrt",)
    """Of features of several depths, what a block of d standardized numbers counts: dim (by its numbers: each is
    multiplied by 1), equal (each block as much: by d^-1/2), sqrt (between: by d^-1/4). Of several the best is taken."""

    depths: tuple[DepthSet, ...] = ()
    """Of features of several depths, the sets that are tried: last, stages, blocks, all. Of several the best is taken
    (default: each that there is)."""

    n_neighbors: tuple[int, ...] = (1, 3, 5, 10, 20, 50)
    """Numbers of neighbours tried for knn."""

    nystroem_components: int = 2000
    """Rows that rbf compares all others with (Nystroem's method), where there are more than 10,000 of them, and
    kernel_ridge where there are more than these."""

    aggregate: Literal["mean", "max", "concat", "attention"] = "mean"
    """How the features of several images become the row of a sample, for heads on vectors: mean, max, or concat (side
    by side; a missing view has the mean of the training images there). attention is learned: it is the head mil."""

    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes weigh as much as frequent ones, in training (but for the fine-tuning of masks) and, unless
    --metric names another, in the metric that chooses and ranks, balanced_accuracy."""

    sampling: Literal["natural", "balanced"] = "natural"
    """How torch heads are shown rows: each once an epoch, or drawn so that all classes come as often."""

    max_memory_gb: float | None = field(
        default=None,
        metadata=OptionHelp(
            lambda: (
                "Gigabytes that cached features may take. Larger ones are streamed from the cache, by heads that "
                f"can: {describe_streaming_heads()}. rbf compares all images with all where that finds room beside "
                "them, and else with some (default: half of the free memory)."
            )
        ),
    )

    columns: tuple[str, ...] = ()
    """Columns of the data's table that hold numbers, to stand beside the images: each head is then trained on the
    images alone, on the columns alone, and on both. They are standardized on train; a missing one is filled in."""

    categories: tuple[str, ...] = ()
    """Columns that hold categories, as a zip code is, though of digits: each has a number that is 1 or 0."""

    texts: tuple[str, ...] = ()
    """Columns that hold texts in words: how often they have which (TF-IDF)."""

    log_columns: tuple[str, ...] = ()
    """Those of columns whose logarithm is taken, as of areas and prices, of which some are many times the others."""

    impute: Literal["median", "mean"] = "median"
    """What stands in for a missing number of a column, of train; that it is missing becomes a number of its own."""

    category_min_count: int = 2
    """Samples of train that a category needs to be told apart; rarer ones are one together, and so is what train never
    had."""

    ensemble: Literal["greedy", "stack", "none"] | None = None
    """What is made of the heads of a run by their predictions out of folds, without training any anew: greedy averages
    them, with weights chosen by the loss; stack fits a linear model to them (default: greedy, of two heads or more).
    With what is fine-tuned they are averaged by their predictions for validation. none makes neither."""

    hidden_dim: int = 512
    """Units of the hidden layer of mlp and concat."""

    fit_dropout: float | None = None
    """Dropout before the output of the torch heads, half of it before the hidden layer of concat (default: 0.5; of
    heads on maps what suits each)."""

    fit_scaler: Literal["none", "standard", "l2"] = "standard"
    """Feature scaling before linear and mlp; of the others, concat knows l2."""

    fit_epochs: int | None = None
    """Most epochs of a torch head (default: 100; of heads on maps what suits each, 6 to 30)."""

    fit_patience: int = 15
    """Epochs without a better validation loss after which a torch head stops."""

    fit_lr: tuple[float, ...] = ()
    """Highest learning rates of a torch head (AdamW, one-cycle). Of several, trained at once, the best on validation is
    kept (default: 0.001; of heads on maps what suits each)."""

    fit_weight_decay: tuple[float, ...] = (1e-2,)
    """Decoupled weight decays of a torch head that are tried; none on biases and normalisation."""

    fit_batch_size: int | None = None
    """Rows per step of a torch head (default: 64; of heads on maps 8)."""

    fit_label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy of a torch head."""

    def __post_init__(self) -> None:
        take_lists(self)
        take_kinds(self)
        require_choices(self)
        minima = {"c_values": 1e-12, "cv": 0, "hidden_dim": 1, "fit_dropout": 0, "fit_epochs": 1, "fit_patience": 1}
        minima |= {"fit_lr": 0, "fit_weight_decay": 0, "fit_batch_size": 1, "fit_label_smoothing": 0}
        minima |= {"n_neighbors": 1, "nystroem_components": 1, "max_memory_gb": 0, "category_min_count": 1}
        require_at_least(self, minima)
        require("cv", self.cv, "0, which selects on the validation split, or at least 2", lambda folds: folds != 1)
        require("c_values", self.c_values, "finite", math.isfinite)
        for option in ("c_values", "scalers", "block_weight", "n_neighbors", "fit_weight_decay"):
            if not getattr(self, option):
                raise UsageError(f"`{option}` needs at least one value")
        for name in self.head:
            require_known(name)
        if self.aggregate == "attention":
            object.__setattr__(self, "head", _learning_to_aggregate(self.head))
        for name in ("fit_dropout", "fit_label_smoothing"):
            require(name, getattr(self, name), "less than 1", lambda share: share < 1)

    def recipe(self, default: FitRecipe = FitRecipe()) -> FitRecipe:
        """Return how a torch head trains, where nothing is given by its own default."""
        return FitRecipe(
            default.epochs if self.fit_epochs is None else self.fit_epochs,
            self.fit_lr or default.lr,
            default.batch_size if self.fit_batch_size is None else self.fit_batch_size,
            default.dropout if self.fit_dropout is None else self.fit_dropout,
        )

    def resolved(self, default: FitRecipe = FitRecipe()) -> dict[str, Any]:
        """Return all options by name, as a head is trained with them that has this recipe of its own."""
        recipe = self.recipe(default)
        return {**asdict(self), **{f"fit_{name}": value for name, value in asdict(recipe).items()}}

    def heads_for(self, task: str) -> tuple[HeadName, ...]:
        """Return the heads to train for a task: those that were named, or its own."""
        return self.head or default_heads(task)


def _learning_to_aggregate(heads: tuple[HeadName, ...]) -> tuple[HeadName, ...]:
    """Return the heads that learn how much each image of a sample counts: those that are named, or the one there is."""
    others = [name for name in heads if find_head(name).rows != "bag"]
    if others:
        raise UsageError(
            f"`aggregate` attention is learned by a head of its own, `head` {_ATTENTION[0]}, and {', '.join(others)} "
            "cannot: take mean, max or concat for them"
        )
    return heads or _ATTENTION

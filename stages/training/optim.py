"""Optimisers and the parameter groups they work on: which rate a block has, and what its weights are held down by.

All groups are made before the first step, also of blocks that begin to train later (``unfreezing.py``), so that
schedules and checkpoints hold from beginning to end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from timm.optim import (  # type: ignore[attr-defined]  # what timm documents, if it does not declare it
    create_optimizer_v2,
    get_optimizer_class,
    list_optimizers,
)
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from cache.errors import UsageError, suggestion
from cache.registry import Registration
from stages.config.bounds import require
from stages.config.registry import OPTIMIZERS

Group = dict[str, Any]
"""A parameter group of torch's, with the name of its ``block`` and whether it is ``regularised``."""

_UNDECAYED = ("*token*", "*pos*", "*bias*", "*scale*", "gamma*")
"""Parameters that are no matrices, whatever their shape, by what torchvision and timm call them: tokens, position
tables, relative position biases, layer scales."""

_NOT_OFFERED = ("fused*", "bnb*", "adahessian")
"""Of timm's: they need packages beyond torch, or second derivatives."""


def parameter_groups(
    model: nn.Module,
    blocks: Sequence[tuple[str, Collection[str], float]],
    weight_decay: float,
    no_decay: Collection[str] = (),
) -> list[Group]:
    """Return optimiser groups, at most two for each block: one that weight decay acts on, and one that it does not.

    Parameters
    ----------
    model : nn.Module
        Parameters that do not require a gradient are left out.
    blocks : sequence of (name, prefixes, rate)
        Each block's highest learning rate, and the layers (or parameters) of the model that it is made of.
    weight_decay : float
        Of matrices and kernels, as the optimiser has it: decoupled from the gradient (AdamW), or added to it (SGD,
        Adam). Biases, normalisation, position tables and tokens get none; nor does what ``no_weight_decay()`` of the
        model, or of a network inside it, names.
    no_decay : collection of str
        Further names to spare, as ends of the model's: what ``no_weight_decay()`` of a network said of which only
        sections are here.

    Raises
    ------
    UsageError
        If nothing is left to train, or a parameter that trains is in no block or in two.
    """
    spared = {*no_decay, *_no_weight_decay_names(model)}
    groups = []
    block_by_name: dict[str, str] = {}
    for block, prefixes, rate in blocks:
        named_parameters = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
        ]
        for name, _ in named_parameters:
            if block_by_name.setdefault(name, block) != block:
                raise UsageError(f"{name} is in two blocks that train, {block_by_name[name]} and {block}")
        for regularized in (True, False):
            parameters = [
                parameter for name, parameter in named_parameters if _decays(name, parameter, spared) == regularized
            ]
            if parameters:
                decay = weight_decay if regularized else 0.0
                groups.append(
                    {
                        "params": parameters,
                        "lr": rate,
                        "weight_decay": decay,
                        "block": block,
                        "regularised": regularized,
                    }
                )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError("nothing is left to train: every parameter is frozen; unfreeze a layer that has weights")
    unassigned = [name for name in trained if name not in block_by_name]
    if unassigned:
        raise UsageError(
            f"{unassigned[0]} is to train, and is in none of the blocks "
            f"{', '.join(block_name for block_name, *_ in blocks)}"
        )
    return groups


def layerwise_lrs(
    blocks: Sequence[tuple[str, Collection[str]]], lr: float, layer_decay: float
) -> list[tuple[str, Collection[str], float]]:
    """Return blocks with discriminative rates: each block's is that of the block above it times `layer_decay`.

    Discriminative fine-tuning (Howard & Ruder 2018, section 3.2: a factor of 1/2.6); with the layers of a transformer
    for blocks it is layer-wise decay (Clark et al. 2020; 0.65 to 0.75 for ViTs in Bao et al. 2022, "BEiT").

    Parameters
    ----------
    blocks : sequence of (name, prefixes)
        From the top down: the first has `lr`.
    lr : float
        Highest rate of the topmost block.
    layer_decay : float
        In (0, 1]; 0.01 to 0.1 for rates 10 to 100 times lower from block to block.

    Returns
    -------
    list of (name, prefixes, rate)
        As :func:`parameter_groups` takes it.

    Raises
    ------
    UsageError
        If `layer_decay` is impossible.
    """
    require("layer_decay", layer_decay, "more than 0 and at most 1", lambda factor: 0 < factor <= 1)
    return [(name, prefixes, lr * layer_decay**depth) for depth, (name, prefixes) in enumerate(blocks)]


def create_optimizer(name: str, groups: list[Group], momentum: float = 0.9) -> Optimizer:
    """Return an optimiser over ready-made groups, in torch's fused implementation where that is safe.

    Parameters
    ----------
    name : str
        ``sgd`` (with Nesterov's momentum), ``momentum`` (without), ``adam``, ``adamw``, or another that timm knows or
        that is registered.
    groups : list of dict
        Of :func:`parameter_groups`, on the device that trains.
    momentum : float
        Of optimisers that have one; SGD with 0 is plain.

    Raises
    ------
    UsageError
        If there is no such optimiser (the nearest name is suggested), or the momentum is impossible.
    """
    known = optimizers()
    if name not in known:
        raise UsageError(
            f"`opt` {name}: there are sgd, momentum, adam, adamw and what else timm has, and no such one."
            f"{suggestion(name, known)}"
        )
    require("momentum", momentum, "at least 0 and less than 1", lambda share: 0 <= share < 1)
    if name in OPTIMIZERS.names():
        make: MakeOptimizer = OPTIMIZERS.get(name)
        return make(groups, momentum)
    if name == "sgd" and momentum == 0:
        name = "momentum"  # torch refuses Nesterov's with none
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*opt_einsum")  # with which kron would be quicker, and no other
        return create_optimizer_v2(groups, opt=name, momentum=momentum, **_fused(name, groups))


def optimizers() -> list[str]:
    """Return the names of the optimisers there are."""
    return [*_timm_optimizers(), *OPTIMIZERS.names()]


MakeOptimizer = Callable[[list[Group], float], Optimizer]
"""Groups of :func:`parameter_groups`, and the momentum asked for -> the optimiser over them."""


def register_optimizer(name: str, *, help_text: str = "") -> Callable[[MakeOptimizer], MakeOptimizer]:
    """Make a function an optimiser beside those of timm.

    Parameters
    ----------
    name
        What `opt` is for it, a literal in our own files.
    help_text
        What help says of it; by default the beginning of the docstring.

    Raises
    ------
    UsageError
        If timm has one of that name, or another function is registered under it.
    """

    def register(make: MakeOptimizer) -> MakeOptimizer:
        if name in _timm_optimizers():
            raise UsageError(
                f"two optimizers are called {name!r}: timm's and that of {make.__module__}.{make.__qualname__}; give "
                "it another name"
            )
        OPTIMIZERS.register(Registration(name, help_text=help_text), make)
        return make

    return register


def _timm_optimizers() -> list[str]:
    return [str(name) for name in list_optimizers(exclude_filters=list(_NOT_OFFERED))]


def _fused(name: str, groups: list[Group]) -> dict[str, Any]:
    """Return the option for one kernel per step instead of one per tensor and operation, where it is safe.

    SGD's moves its momentum in steps that the scaling of float16 gradients leaves out: from memory that nobody wrote
    to, in the first one (torch 2.14).
    """
    has = get_optimizer_class(name, bind_defaults=False) in (Adam, AdamW)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return {"fused": True} if has and devices <= {"cpu", "cuda"} else {}


def _decays(name: str, parameter: nn.Parameter, spared: Collection[str]) -> bool:
    last_part = name.rsplit(".", 1)[-1]
    if parameter.ndim <= 1 or any(fnmatchcase(last_part, pattern) for pattern in _UNDECAYED):
        return False
    return not any(name == pattern or name.endswith(f".{pattern}") for pattern in spared)


def _no_weight_decay_names(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if callable(names := getattr(module, "no_weight_decay", None)):
            yield from (f"{path}.{name}" if path else name for name in names())

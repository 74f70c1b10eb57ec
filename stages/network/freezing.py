"""Which parameters train, and how the rest is kept exactly as it is, BatchNorm statistics included (T3)."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import nn

from stages.network.module_paths import ancestor_paths, has_prefix, require_known, state_dict_keys
from stages.runtime.norm_layers import NORM_LAYERS


def freeze(module: nn.Module, trainable: Collection[str]) -> None:
    """Freeze everything in a network but the layers `trainable`.

    Frozen parameters get no gradients. Every layer with parameters or statistics none of which train stays in
    evaluation mode, whatever ``train()`` is called on the network: its BatchNorm statistics do not move, and its
    dropout and stochastic depth are off. Calling it again with other layers undoes the former call.

    Parameters
    ----------
    module
        The network, or a section of one.
    trainable
        Prefixes of names: modules (``layer4``) or single parameters (``class_token``). An empty collection freezes
        everything.

    Raises
    ------
    UsageError
        If a prefix names nothing in the network.
    """
    require_known(module, trainable)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(has_prefix(name, trainable))
    frozen = {*frozen_layers(module, trainable)}
    for path, layer in module.named_modules():
        if path in frozen:
            lock_eval_mode(layer)
        else:
            vars(layer).pop("train", None)


def frozen_layers(module: nn.Module, trainable: Collection[str]) -> tuple[str, ...]:
    """Return the paths of all layers that have parameters or statistics, none of which are among the `trainable`."""
    state = state_dict_keys(module)
    holders = dict.fromkeys(path for name in state for path in ("", *ancestor_paths(name)[:-1]))
    training = {path for name in state if has_prefix(name, trainable) for path in ("", *ancestor_paths(name)[:-1])}
    return tuple(path for path in holders if path not in training)


def lock_eval_mode(module: nn.Module) -> None:
    """Put a module into evaluation mode for good: ``train()`` on it, or on what holds it, has no effect.

    It stays so in a copy, and where it is unpickled.
    """
    module.eval()
    # not a bound method, which pickle looks up by its name among the methods of the module
    module.train = partial(_ignore_train_call, module)  # type: ignore[method-assign]


def keep_batchnorm_in_evaluation(module: nn.Module) -> None:
    """Keep the running statistics of every normalisation layer as they are; its weight and bias may still train."""
    for layer in module.modules():
        if isinstance(layer, NORM_LAYERS):
            lock_eval_mode(layer)


def _ignore_train_call(module: nn.Module, mode: bool = True) -> nn.Module:
    return module

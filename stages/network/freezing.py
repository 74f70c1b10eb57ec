"""Which parameters train, and how the rest is kept exactly as it is, BatchNorm statistics included (T3)."""

from __future__ import annotations

from collections.abc import Collection
from types import MethodType

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from cache.errors import UsageError, suggestion


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
    state = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for prefix in trainable:
        if not any(_is_under(name, (prefix,)) for name in state):
            known = [name for name, _ in module.named_modules() if name]
            raise UsageError(f"Nothing called {prefix!r} can be trained in this network.{suggestion(prefix, known)}")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(_is_under(name, trainable))
    for path, layer in module.named_modules():
        inside = [name for name in state if _is_under(name, (path,))]
        if inside and not any(_is_under(name, trainable) for name in inside):
            keep_in_evaluation(layer)
        else:
            vars(layer).pop("train", None)


def keep_in_evaluation(module: nn.Module) -> None:
    """Put a module into evaluation mode for good: ``train()`` on it, or on what holds it, has no effect."""
    module.eval()
    module.train = MethodType(_stay, module)  # type: ignore[method-assign]


def keep_batchnorm_in_evaluation(module: nn.Module) -> None:
    """Keep the running statistics of every normalisation layer as they are; its weight and bias may still train."""
    for layer in module.modules():
        if isinstance(layer, _NormBase):
            keep_in_evaluation(layer)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _is_under(name: str, prefixes: Collection[str]) -> bool:
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)

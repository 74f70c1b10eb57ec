"""What the cache calls a network of the user's own: by what its classes say, since no library stands for its name.

Two networks of one identity and one digest of their weights are taken to compute the same features.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import nn

from cache.errors import UsageError

_PLAIN = (bool, int, float, str, type(None))


def identity_of_module(module: nn.Module) -> str:
    """Return the class of a network, and a digest of its modules, their classes' source, and their attributes.

    Tensors are no part of it, but for those that are in no state_dict. Of torch's own classes the name is taken for the
    source. What is not seen: functions outside the classes that they call.

    Raises
    ------
    UsageError
        If the source of a class, or of a function that is an attribute, cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    kinds = {kind for part in module.modules() for kind in type(part).__mro__ if issubclass(kind, nn.Module)}
    for kind in sorted(kinds, key=lambda kind: (kind.__qualname__, kind.__module__)):
        digest.update(f"{kind.__qualname__}\n{_source(kind)}\n".encode())
    saved = {*module.state_dict()}
    for name, part in module.named_modules():
        attributes = [f"{key}={value}" for key, value in _attributes(part)]
        digest.update("\n".join([name, type(part).__qualname__, *attributes, ""]).encode())
    for name, buffer in module.named_buffers():
        if name not in saved:
            digest.update(f"{name} {buffer.dtype} {[*buffer.shape]}\n".encode())
            digest.update(buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{type(module).__qualname__} {digest.hexdigest()}"


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield what a module computes with besides tensors and modules: numbers, words, functions, and tuples of them."""
    for key, value in sorted(vars(module).items()):
        if key.startswith("_") or key == "training":
            continue
        if isinstance(value, _PLAIN) or _is_plain_sequence(value):
            yield key, repr(value)
        elif isinstance(value, FunctionType):
            yield key, f"{value.__qualname__} {_source(value)}"


def _is_plain_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(item, _PLAIN) or _is_plain_sequence(item) for item in value
    )


def _source(definition: type | Callable[..., Any]) -> str:
    """Return the source of a class or function; of torch's an empty string."""
    if definition.__module__.partition(".")[0] == "torch":
        return ""
    try:
        return inspect.getsource(definition)
    except (OSError, TypeError) as error:
        raise UsageError(
            f"the source of {definition.__module__}.{definition.__qualname__} cannot be read, so nothing tells "
            "whether cached "
            "features are still those of this network, and none are cached. Give it a name, another one whenever what "
            "it computes changes: `backbone` package.module:factory@NAME, or in Python "
            "backbone_from_module(module, name=NAME)"
        ) from error

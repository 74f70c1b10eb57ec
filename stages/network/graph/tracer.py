"""torchvision's tracer of ``torch.fx``, which names steps by the paths of modules, for one thread of several."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable
from typing import Any

import timm.models
import torchvision.ops
from torch import nn
from torchvision.models.feature_extraction import NodePathTracer


class ThreadsOwnTracer(NodePathTracer):  # type: ignore[misc]
    """A tracer that leaves alone what other threads compute meanwhile.

    ``torch.fx`` replaces ``nn.Module.__call__`` for the whole process as long as it traces.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of the traced network, make any other."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record what the traced network reads of itself, read anything else."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def build_tracer() -> ThreadsOwnTracer:
    """Return a tracer that treats as one step what torchvision and timm say cannot be traced through."""
    operations = [
        kind for _, kind in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(kind, nn.Module)
    ]
    registered: Any = timm.models
    return ThreadsOwnTracer(
        leaf_modules=[*operations, *registered.get_notrace_modules()],
        autowrap_modules=(math, torchvision.ops),
        autowrap_functions=tuple(registered.get_notrace_functions()),
    )

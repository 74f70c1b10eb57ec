"""Shapes without numbers: what a network's tensors are like, and the memory they would take, with nothing computed.

torch has no public way to run a network on tensors that have shapes alone, to see every tensor that is made, or to tell
two views of one piece of memory from two pieces. The names that are not public stand here and nowhere else;
``tests/test_fragile_names.py`` says which one moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
"""What a step raises in the dry run whose output, or its shape, depends on the numbers in the image."""


class _FakeCpuTensors(FakeTensorMode):  # type: ignore[no-untyped-call]
    """torch's mode, without what it prepares where there is no GPU, in case that tensors are of one all the same.

    torch 2.11 keeps that in the thread that enters the mode, and reads it in the next: where the first has ended, the
    process ends with a segmentation fault.
    """

    avoid_device_init = False


class PeakMemoryMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the most bytes that the tensors made while it is active take at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._made: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = storages((args, kwargs))
        self._made.update({storage: size for storage, size in storages([output]).items() if storage not in inputs})
        self._made = {storage: size for storage, size in self._made.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self._made.values()))
        return output


def storages(values: Iterable[Any]) -> dict[Any, int]:
    """Return weak references to the pieces of memory behind tensors, each once, with their bytes."""
    reference: Any = StorageWeakRef
    tensors = [leaf for leaf in pytree.tree_leaves([*values]) if isinstance(leaf, torch.Tensor)]
    return {reference(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in tensors}


@contextmanager
def without_computing(module: nn.Module) -> Iterator[None]:
    """Make tensors know their shapes and nothing else, and attention consist of products that can be counted.

    Parameters
    ----------
    module
        What is run. Tensors that it keeps of a pass, as ConViT keeps positions and LeViT biases, are as before
        afterwards: those without numbers are of no use to a real one.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _kept_tensors(module),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            _FakeCpuTensors(allow_non_fake_inputs=True),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _kept_tensors(module: nn.Module) -> Iterator[None]:
    """Put back what the modules had in plain attributes, in their dictionaries and lists, and in buffers."""
    before = [
        (part.__dict__, dict(part.__dict__), {name: copy(part.__dict__[name]) for name in _containers(part)})
        for part in module.modules()
    ]
    try:
        yield
    finally:
        for attributes, plain, containers in before:
            for name, value in [*attributes.items()]:
                if isinstance(value, FakeTensor):
                    if name in plain:
                        attributes[name] = plain[name]
                    else:
                        del attributes[name]
            for name, content in containers.items():
                container: Any = plain[name]
                if any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(container)):
                    container.clear()
                    container.update(content) if isinstance(container, dict) else container.extend(content)


def _containers(part: nn.Module) -> list[str]:
    """Return the attributes of a module that are dictionaries or lists and may be given tensors."""
    own = ("_parameters", "_modules")
    return [name for name, value in part.__dict__.items() if isinstance(value, (dict, list)) and name not in own]

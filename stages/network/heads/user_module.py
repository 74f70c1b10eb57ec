"""A module of the user's own as a head, named by its import path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cache.errors import UsageError, suggestion
from stages.network.heads.base import Head


class ImportedHead(Head):
    """A module of the user's own: float [b, *row_shape] -> logits [b, classes].

    Parameters
    ----------
    name
        ``package.module:Class``, found in the current folder or among what is installed. It must be a
        ``torch.nn.Module`` and is called as ``Class(row_shape, out_features)``.

    Raises
    ------
    UsageError
        If there is no such class, it is no module, it raises, or its output for two rows is not [2, out_features].
    """

    def __init__(self, name: str, row_shape: tuple[int, ...], out_features: int) -> None:
        super().__init__(name, row_shape, out_features)
        imported = _imported_class(name)
        try:
            self.module = imported(tuple(row_shape), out_features)
        except Exception as error:
            raise UsageError(
                f"`head` {name}: {imported.__name__}({tuple(row_shape)}, {out_features}) raised {_in_words(error)}."
            ) from error
        self._require_logits()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of rows."""
        logits: torch.Tensor = self.module(rows)
        return logits

    def _require_logits(self) -> None:
        """Refuse a module that could not be trained and saved, before time is spent on it."""
        name, shape, out_features = self.config["head"], self.config["row_shape"], self.config["out_features"]
        try:
            with torch.no_grad():
                output: Any = self.module.eval()(torch.zeros(2, *shape))
        except Exception as error:
            raise UsageError(f"`head` {name}: a batch of zeros, {[2, *shape]}, raised {_in_words(error)}.") from error
        if not isinstance(output, torch.Tensor) or output.shape != (2, out_features) or not output.is_floating_point():
            is_tensor = isinstance(output, torch.Tensor)
            given = f"{output.dtype} {[*output.shape]}" if is_tensor else f"a {type(output).__name__}"
            raise UsageError(
                f"`head` {name}: for a batch of two rows, {[2, *shape]}, it must return logits, float "
                f"{[2, out_features]}, and gave {given}."
            )
        if not [*self.module.parameters()]:
            raise UsageError(f"`head` {name} has no parameters, so there is nothing to train.")
        others = [entry for entry, value in self.module.state_dict().items() if not isinstance(value, torch.Tensor)]
        if others:
            raise UsageError(
                f"`head` {name} keeps more than tensors in its state_dict ({', '.join(others)}), which cannot be saved "
                "without pickle."
            )
        self.module.train()


def _imported_class(name: str) -> type[nn.Module]:
    """Return the class at an import path; anything but a module's class is refused before it is called."""
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise UsageError(f"`head` {name!r} is no import path: write package.module:Class.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m has it, whichever way Cutonce was started
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UsageError(
                f"`head` {name}: there is no module {missing!r} in {here}, nor is one installed."
            ) from error
        raise UsageError(f"`head` {name}: importing {module_name!r} raised {_in_words(error)}.") from error
    found: Any = getattr(module, class_name, None)
    if found is None:
        known = [one for one, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(
            f"`head` {name}: {module.__file__ or module_name} has no {class_name!r}.{suggestion(class_name, known)}"
        )
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(
            f"`head` {name}: {class_name} must be a class derived from torch.nn.Module, and is "
            f"{found.__name__ if isinstance(found, type) else f'a {type(found).__name__}'}."
        )
    return found


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ").replace("\n", " ")

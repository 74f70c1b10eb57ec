"""A module of the user's own as a head, named by its import path."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cache.errors import UsageError
from stages.network.heads.base import Head
from stages.network.import_path import error_text, import_from_path
from stages.runtime.seeding import DrawnApart


class ImportedHead(Head):
    """A module of the user's own: float [b, *row_shape] -> logits [b, classes].

    Parameters
    ----------
    name
        ``package.module:Class``, imported in the current folder or among what is installed. It must be a
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
            with DrawnApart.but_here():
                self.module = imported(tuple(row_shape), out_features)
        except Exception as error:
            raise UsageError(
                f"`head` {name}: {imported.__name__}({tuple(row_shape)}, {out_features}) raised {error_text(error)}."
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
            raise UsageError(f"`head` {name}: a batch of zeros, {[2, *shape]}, raised {error_text(error)}.") from error
        if not isinstance(output, torch.Tensor) or output.shape != (2, out_features) or not output.is_floating_point():
            is_tensor = isinstance(output, torch.Tensor)
            description = f"{output.dtype} {[*output.shape]}" if is_tensor else f"a {type(output).__name__}"
            raise UsageError(
                f"`head` {name}: for a batch of two rows, {[2, *shape]}, it must return logits, float "
                f"{[2, out_features]}, and gave {description}."
            )
        if not [*self.module.parameters()]:
            raise UsageError(f"`head` {name} has no parameters, so there is nothing to train.")
        non_tensors = [
            entry for entry, value in self.module.state_dict().items() if not isinstance(value, torch.Tensor)
        ]
        if non_tensors:
            raise UsageError(
                f"`head` {name} keeps more than tensors in its state_dict ({', '.join(non_tensors)}), which cannot be "
                "saved "
                "without pickle."
            )
        self.module.train()


def _imported_class(name: str) -> type[nn.Module]:
    """Return the class at an import path; anything but a module's class is refused before it is called."""
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise UsageError(f"`head` {name!r} is no import path: write package.module:Class.")
    imported: Any = import_from_path("head", name, lambda value: isinstance(value, type))
    if not (isinstance(imported, type) and issubclass(imported, nn.Module)):
        raise UsageError(
            f"`head` {name}: {class_name} must be a class derived from torch.nn.Module, and is "
            f"{imported.__name__ if isinstance(imported, type) else f'a {type(imported).__name__}'}."
        )
    return imported

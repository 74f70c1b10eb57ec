"""Which heads there are, and what is known of each before anything of it is imported.

A head is one file: a function in ``stages/fitting/heads`` under ``@register_head``, or a torch module in
``stages/network/heads`` under ``@register_torch_head``. Both are things of one registry, see :mod:`cache.registry`;
here is what a head says of itself, and how its name is spoken of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cache.errors import UsageError
from cache.registry import Registration, Registry

RowKind = Literal["vector", "map", "any", "bag", "maps"]

_ANSWERED_BY = {
    "svr": "numbers with a radial kernel are predicted by kernel_ridge: squared errors in place of support vector "
    "regression's insensitive ones, all penalties and leave-one-out in closed form"
}
"""Heads that others have, and what takes their place."""

_YOUR_OWN = ", and modules of your own, as package.module:Class"


@dataclass(frozen=True)
class HeadKind(Registration):
    """What a head says of itself.

    Attributes
    ----------
    name : str
        As in options, results and folders of runs.
    label : str
        As in tables and figures.
    method : "linear" or "head"
        What it is compared as: a linear model on the features, or a head beyond that.
    rows : "vector", "map", "any", "bag" or "maps"
        The features it takes; tokens count as maps. A bag is all images of a sample of several. Maps are those of one
        cut or several, for an answer at each place.
    streams : bool
        Whether it takes features that are larger than memory.
    tasks : tuple of str
        What it can predict, by the names of the tasks; whatever has a loss, where there is none.
    default_for : tuple of str
        The tasks for which it is trained where no head is named.
    in_epochs : bool
        Whether it is a torch module that trains in epochs, or else a fit function.
    saved_as : str
        Import path, ``package.module:Class``, of the module that a fit function makes, where that has the head's name.
    cost : float
        What a search over its settings takes on some thousand rows, that of logistic regression being 1, in the order
        of magnitude: `best` begins with the cheap ones.
    """

    label: str = ""
    method: Literal["linear", "head"] = "head"
    rows: RowKind = "vector"
    streams: bool = False
    tasks: tuple[str, ...] = ("single_label",)
    default_for: tuple[str, ...] = ()
    in_epochs: bool = False
    saved_as: str = ""
    cost: float = 30.0


HEADS = Registry[HeadKind, Any](
    "head",
    HeadKind,
    ["stages.fitting.heads", "stages.network.heads"],
    option="head",
    decorators={"register_head": {}, "register_torch_head": {"in_epochs": True, "streams": True}},
)


def head_names() -> tuple[str, ...]:
    """Return the names of all heads, fit functions first; nothing is imported."""
    known = HEADS.known
    return (*sorted(known, key=lambda name: (known[name].in_epochs, name)), *HEADS.plug_in_names)


def default_heads(task: str) -> tuple[str, ...]:
    """Return the heads that are trained for a task where none is named, linear models first.

    Nothing is imported, unless none of ours is: then those of other packages are asked, whose task it may be.

    Raises
    ------
    UsageError
        If there is none; names the heads that can be named.
    """
    kinds = [kind for kind in HEADS.known.values() if task in kind.default_for]
    if not kinds:
        kinds = [kind for kind in map(find_head, HEADS.names()) if task in kind.default_for]
    if not kinds:
        able = names_where(lambda kind: not kind.tasks or task in kind.tasks)
        raise UsageError(
            f"`task` {task} has no head that is trained where none is named: "
            + (f"name one, {able}" if able else "no head is for it")
        )
    return tuple(
        kind.name for kind in sorted(kinds, key=lambda kind: (kind.in_epochs, kind.method != "linear", kind.name))
    )


def find_head(name: str) -> HeadKind:
    """Return what a head says of itself; of those of other packages, and of them alone, the module is imported.

    A module of the user's own is a head by its import path, ``package.module:Class``.

    Raises
    ------
    UsageError
        If there is no head of that name, or there are two.
    """
    if ":" in name:
        return HeadKind(name, label=name, rows="any", tasks=(), in_epochs=True)
    return HEADS.find(name, _YOUR_OWN)


def import_head(name: str) -> Any:
    """Return the fit function, or the class of the torch module, of a head that has a name."""
    return HEADS.get(name, _YOUR_OWN)


def require_known(name: str, option: str = "head") -> None:
    """Refuse a head that there is not, which an option named; nothing is imported.

    Raises
    ------
    UsageError
        With the nearest right name.
    """
    if name in _ANSWERED_BY and name not in HEADS.names():
        raise UsageError(f"`{option}` {name}: there is no such head; {_ANSWERED_BY[name]}")
    if ":" not in name:
        HEADS.require_known(name, _YOUR_OWN, option)


def head_label(name: str) -> str:
    """Return what a head is called in tables; a name that no head has here stays as it is.

    What a run has the same head in, behind a hyphen, as in ``rbf-288px``, stands in brackets.
    """
    head, _, way = name.partition("-")
    if name not in HEADS.names() and head in HEADS.names() and way:
        return f"{find_head(head).label} ({way})"
    return find_head(name).label if name in HEADS.names() else name


def names_where(holds: Callable[[HeadKind], bool]) -> str:
    """Return the names of the heads for which something holds, with commas, for messages."""
    return ", ".join(name for name in head_names() if holds(find_head(name)))


def describe_heads() -> str:
    """Return what there is to choose from, for the help of options; nothing is imported."""
    described = dict(zip(HEADS.known, HEADS.named_help_texts(), strict=False))
    fitted, torch_heads = (
        ", ".join(described[name] for name in head_names() if name in described and HEADS.known[name].in_epochs == kind)
        for kind in (False, True)
    )
    plug_ins = ", ".join(HEADS.plug_in_names)
    return f"Fitted models: {fitted}. Torch: {torch_heads}." + (f" Of other packages: {plug_ins}." if plug_ins else "")


def describe_default_heads() -> str:
    """Return which heads are trained for which task where none is named, in words; nothing is imported."""
    return "; ".join(f"{' '.join(default_heads(task))} for {task.replace('_', ' ')}" for task in _tasks_with_defaults())


def describe_first_heads() -> str:
    """Return with which head the fine-tuning of which task begins where none is named, in words."""
    return "; ".join(f"{default_heads(task)[0]} for {task.replace('_', ' ')}" for task in _tasks_with_defaults())


def _tasks_with_defaults() -> list[str]:
    tasks = {task for kind in HEADS.known.values() for task in kind.default_for}
    return sorted(tasks, key=lambda task: (task != "single_label", task))


def describe_streaming_heads() -> str:
    """Return which heads take features larger than memory, in words; nothing is imported."""
    fitted = [kind.name for kind in HEADS.known.values() if kind.streams and not kind.in_epochs]
    return f"{', '.join(sorted(fitted))} and the torch heads"

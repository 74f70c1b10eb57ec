"""Which heads there are, and what is known of each before anything of it is imported.

A head is one file: a function in ``stages/fitting`` under ``@register_head``, or a torch module in
``stages/network/heads`` under ``@register_torch_head``. What stands in the decorator, and the beginning of the
docstring below it, is read here from the text of the file, because help and checks of options must not wait for torch
and scikit-learn; so a decorator takes literals alone. The function or class is filled in when its file is imported.

Another package has heads under the entry points of the group ``cutonce.heads``: each names a head and the module that
registers it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

import stages
from cache.errors import UsageError, suggestion

ENTRY_POINTS = "cutonce.heads"
"""The group of entry points under which other packages name their heads."""

RowKind = Literal["vector", "map", "any"]

_FOLDERS = ("fitting", "network/heads")

_REGISTRATION = re.compile(
    r'^@(register_head|register_torch_head)\(([^@]*?)\)\n(?:@.*\n)*(?:def|class) [^"]*?:\n    """([^".:\n]*)',
    re.MULTILINE,
)


@dataclass(frozen=True)
class HeadKind:
    """What a head says of itself.

    Attributes
    ----------
    name : str
        As in options, results and folders of runs.
    label : str
        As in tables and figures.
    method : "linear" or "head"
        What it is compared as: a linear model on the features, or a head beyond that.
    rows : "vector", "map" or "any"
        The features it takes; tokens count as maps.
    streams : bool
        Whether it takes features that are larger than memory.
    tasks : tuple of str
        What it can predict, by the names of the tasks.
    in_epochs : bool
        Whether it is a torch module that trains in epochs, or else a fit function.
    saved_as : str
        Import path, ``package.module:Class``, of the module that a fit function makes, where that has the head's name.
    summary : str
        What it is, in a few words.
    module : str
        The file that registers it, as it is imported.
    """

    name: str
    label: str
    method: Literal["linear", "head"] = "head"
    rows: RowKind = "vector"
    streams: bool = False
    tasks: tuple[str, ...] = ("single_label",)
    in_epochs: bool = False
    saved_as: str = ""
    summary: str = ""
    module: str = ""


_REGISTERED: dict[str, tuple[HeadKind, Any]] = {}


def register(kind: HeadKind, target: Any) -> None:
    """Take up a function or class under the name of its kind.

    Raises
    ------
    UsageError
        If something else has the name: names both.
    """
    own = f"{target.__module__}:{target.__qualname__}"
    other = None
    if kind.name in _REGISTERED:
        known = _REGISTERED[kind.name][1]
        other = f"{known.__module__}:{known.__qualname__}"
    elif kind.name in _declared() and _declared()[kind.name].module != target.__module__:
        other = _declared()[kind.name].module
    if other not in (None, own):
        raise UsageError(f"the head {kind.name} of {own} has a name that is taken, by {other}; give it another name")
    beginning = re.match(r"[^.:\n]*", target.__doc__ or "")
    summary = beginning[0].strip() if beginning else ""
    _REGISTERED[kind.name] = replace(kind, summary=summary, module=target.__module__), target


def head_names() -> tuple[str, ...]:
    """Return the names of all heads, fit functions first; nothing is imported."""
    known = _known()
    names = sorted(known, key=lambda name: (known[name].in_epochs, name))
    return tuple(dict.fromkeys([*names, *sorted(_entry_points())]))


def find_head(name: str) -> HeadKind:
    """Return what a head says of itself; of those of other packages, and of them alone, the module is imported.

    A module of the user's own is a head by its import path, ``package.module:Class``.

    Raises
    ------
    UsageError
        If there is no head of that name, or there are two.
    """
    if ":" in name:
        return HeadKind(name, label=name, rows="any", in_epochs=True)
    require_known(name)
    points = _entry_points().get(name, ())
    owners = [_declared()[name].module] if name in _declared() else []
    owners += [f"{point.value} ({point.dist.name if point.dist else 'unknown package'})" for point in points]
    if len(owners) > 1:
        raise UsageError(f"two heads have the name {name}, of {' and '.join(owners)}; uninstall one of the packages")
    if name not in _REGISTERED and points:
        points[0].load()
        if name not in _REGISTERED:
            raise UsageError(f"{owners[0]} registers no head {name}, which its entry point promises")
    return _known()[name]


def import_head(name: str) -> Any:
    """Return the fit function, or the class of the torch module, of a head that has a name."""
    kind = find_head(name)
    if name not in _REGISTERED:
        importlib.import_module(kind.module)
    return _REGISTERED[name][1]


def require_known(name: str) -> None:
    """Refuse a head that there is not; nothing is imported.

    Raises
    ------
    UsageError
        With the nearest right name.
    """
    if ":" in name or name in _known() or name in _entry_points():
        return
    names = head_names()
    raise UsageError(
        f"`head` {name}: there is no such head; there are {', '.join(names)}, and modules of your own, as "
        f"package.module:Class.{suggestion(name, names)}"
    )


def head_label(name: str) -> str:
    """Return what a head is called in tables; a name that no head has here stays as it is."""
    return find_head(name).label if name in _known() or name in _entry_points() else name


def names_where(holds: Callable[[HeadKind], bool]) -> str:
    """Return the names of the heads for which something holds, with commas, for messages."""
    return ", ".join(name for name in head_names() if holds(find_head(name)))


def describe_heads() -> str:
    """Return what there is to choose from, for the help of options; nothing is imported."""
    kinds = [_known()[name] for name in head_names() if name in _known()]
    fitted, torch_heads = (
        ", ".join(_described(kind) for kind in kinds if kind.in_epochs == in_epochs) for in_epochs in (False, True)
    )
    others = ", ".join(name for name in sorted(_entry_points()) if name not in _known())
    return f"Fitted models: {fitted}. Torch: {torch_heads}." + (f" Of other packages: {others}." if others else "")


def describe_streaming_heads() -> str:
    """Return which heads take features larger than memory, in words; nothing is imported."""
    fitted = [kind.name for kind in _known().values() if kind.streams and not kind.in_epochs]
    return f"{', '.join(sorted(fitted))} and the torch heads"


def _described(kind: HeadKind) -> str:
    summary = kind.summary[:1].lower() + kind.summary[1:]
    return f"{kind.name} ({summary})" if summary else kind.name


def _known() -> dict[str, HeadKind]:
    """Return the heads of this package, and those of others that have been imported."""
    return {**_declared(), **{name: kind for name, (kind, _) in _REGISTERED.items()}}


@cache
def _declared() -> dict[str, HeadKind]:
    """Return the heads of this package, from the text of its files."""
    root = Path(stages.__file__).parent
    kinds: dict[str, HeadKind] = {}
    for path in sorted(path for folder in _FOLDERS for path in (root / folder).glob("*.py")):
        module = ".".join(("stages", *path.relative_to(root).with_suffix("").parts))
        for decorator, arguments, summary in _REGISTRATION.findall(path.read_text(encoding="utf-8")):
            call = ast.parse(f"_({arguments})", mode="eval").body
            assert isinstance(call, ast.Call)
            name = ast.literal_eval(call.args[0])
            said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
            if name in kinds:
                raise UsageError(f"two heads have the name {name}, of {kinds[name].module} and {module}")
            in_epochs = decorator == "register_torch_head"
            said = {"streams": in_epochs, **said}  # the default of either decorator
            kinds[name] = HeadKind(name, in_epochs=in_epochs, summary=summary.strip(), module=module, **said)
    return kinds


@cache
def _entry_points() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of other packages' heads, by name."""
    points: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        points[point.name] = (*points.get(point.name, ()), point)
    return points

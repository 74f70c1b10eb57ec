"""Names of layers and parameters: paths with dots, as in a state_dict, and the prefixes that stand for many."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import accumulate

from torch import nn

from cache.errors import UsageError, suggestion


def state_dict_keys(module: nn.Module) -> list[str]:
    """Return the names of all parameters and buffers of a network."""
    return [name for name, _ in (*module.named_parameters(), *module.named_buffers())]


def require_known(module: nn.Module, prefixes: Collection[str]) -> None:
    """Refuse prefixes that stand for nothing.

    Raises
    ------
    UsageError
        If a prefix is no layer with parameters or buffers, nor one of these; says the nearest names.
    """
    state = state_dict_keys(module)
    for prefix in prefixes:
        if not any(has_prefix(name, (prefix,)) for name in state):
            nearest = suggestion(prefix, [name for name, _ in module.named_modules() if name])
            raise UsageError(f"Nothing in this network that has weights is called {prefix!r}.{nearest}")


def has_prefix(name: str, prefixes: Collection[str]) -> bool:
    """Say whether a name is one of the prefixes or lies inside one; everything lies inside an empty prefix."""
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def ancestor_paths(name: str) -> list[str]:
    """Return ``a``, ``a.b``, ``a.b.c`` for ``a.b.c``; nothing for an empty name."""
    return list(accumulate(name.split("."), lambda above, part: f"{above}.{part}")) if name else []


def children(module: str, layers: Iterable[str]) -> list[str]:
    """Return the direct children of `module` that hold any of `list-cuts`, in the order of `list-cuts`."""
    depth = len(module.split(".")) if module else 0
    paths = (ancestor_paths(layer) for layer in layers if has_prefix(layer, (module,)))
    return list(dict.fromkeys(steps[depth] for steps in paths if len(steps) > depth))


def shortest_prefixes(names: Iterable[str], selected: Collection[str]) -> tuple[str, ...]:
    """Return the shortest prefixes that stand for the `selected` among the names and for no other, in their order."""
    names, selected = [*names], {*selected}
    spoilt = {path for name in names if name not in selected for path in ancestor_paths(name)}
    prefixes = (next(path for path in ancestor_paths(name) if path not in spoilt) for name in names if name in selected)
    return tuple(dict.fromkeys(prefixes))

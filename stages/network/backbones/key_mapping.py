"""From the names in a file of weights to those of the network: prefixes exchanged, and what is left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch

from cache.errors import UsageError, WeightsError, suggestion
from stages.network.module_paths import ancestor_paths, has_prefix


def map_keys(weights: Mapping[str, torch.Tensor], rules: Sequence[str], origin: str) -> dict[str, torch.Tensor]:
    """Return weights with the prefixes of their names exchanged.

    Parameters
    ----------
    weights
        As they are called in the file.
    rules
        Each ``OLD=NEW``: the layer OLD, and all in it, is NEW. ``backbone=`` takes a prefix off, ``=backbone`` puts one
        before every name. The first rule that fits a name counts.
    origin
        Names the file in messages.

    Raises
    ------
    UsageError
        If a rule is not of this form.
    WeightsError
        If a rule fits no name, or two tensors come to have the same one.
    """
    pairs = [_parsed(rule) for rule in rules]
    for rule, (old, _) in zip(rules, pairs, strict=True):
        if not any(has_prefix(name, (old,)) for name in weights):
            nearest = suggestion(old, _layers(weights))
            raise WeightsError(f"`weights_rename` {rule}: nothing in {origin} is called {old!r}.{nearest}")
    names: dict[str, str] = {}
    for name in weights:
        fitting = next((pair for pair in pairs if has_prefix(name, (pair[0],))), None)
        new = _replace_prefix(name, *fitting) if fitting else name
        if new in names:
            raise WeightsError(f"`weights_rename` makes {names[new]!r} and {name!r} of {origin} both {new!r}.")
        names[new] = name
    return {new: weights[name] for new, name in names.items()}


def require_ignorable(ignored: Collection[str], names: Collection[str], origin: str) -> None:
    """Refuse a prefix of tensors to ignore that neither the file nor the network has.

    Raises
    ------
    WeightsError
        With the nearest names.
    """
    for prefix in ignored:
        if not any(has_prefix(name, (prefix,)) for name in names):
            nearest = suggestion(prefix, _layers(names))
            raise WeightsError(f"`weights_ignore` {prefix}: neither {origin} nor the network has it.{nearest}")


def suggest_mapping(theirs: Collection[str], network_names: Sequence[str]) -> str:
    """Return the rule that turns names of a file into those of a network, judged by its first; or an empty string."""
    for name in theirs:
        if name.endswith(f".{network_names[0]}"):
            return f"{name.removesuffix(f'.{network_names[0]}')}="
    return next(
        (
            f"={path}"
            for path in ancestor_paths(network_names[0])[:-1]
            if network_names[0].removeprefix(f"{path}.") in theirs
        ),
        "",
    )


def _parsed(rule: str) -> tuple[str, str]:
    old, equals, new = rule.partition("=")
    if not equals or "=" in new or old == new:
        raise UsageError(
            f"`weights_rename` {rule}: write OLD=NEW, such as encoder=blocks; backbone= takes a prefix off"
        )
    return old.strip().rstrip("."), new.strip().rstrip(".")


def _replace_prefix(name: str, old: str, new: str) -> str:
    return ".".join(part for part in (new, name.removeprefix(old).lstrip(".")) if part)


def _layers(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path for name in names for path in ancestor_paths(name)))

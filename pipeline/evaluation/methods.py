"""The methods of transfer that are compared, each with how it is called beside the others.

A method is one decorated function here. What trains it is the experiment's; that a result is of it is said by the name
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stages.config.head_registry import head_label

NameWords = Callable[[str], str]


@dataclass(frozen=True)
class TransferMethod:
    """One way of transfer.

    Attributes
    ----------
    name : str
        As in results: ``finetune``.
    cached : bool
        Whether it trains on cached features.
    order : int
        Where it stands among the others.
    of_others : bool
        Whether it is made of methods of the run.
    label : callable
        From the name of a head, or of what is fine-tuned, to what a table calls it.
    """

    name: str
    cached: bool
    order: int
    of_others: bool
    label: NameWords


_METHODS: dict[str, TransferMethod] = {}


def register_method(
    name: str, *, order: int, cached: bool = False, of_others: bool = False
) -> Callable[[NameWords], NameWords]:
    """Make a function that gives labels the method of transfer of that name.

    Raises
    ------
    ValueError
        If there is a method of that name, or at that place.
    """

    def register(label: NameWords) -> NameWords:
        clash = next((known for known in _METHODS.values() if known.name == name or known.order == order), None)
        if clash is not None:
            raise ValueError(f"{name!r} cannot be method {order}: {clash.name!r} is method {clash.order}")
        _METHODS[name] = TransferMethod(name, cached, order, of_others, label)
        return label

    return register


def get_method(name: str) -> TransferMethod:
    """Return the method of that name, which `is_method` says there is."""
    return _METHODS[name]


def is_method(name: str) -> bool:
    """Return whether there is a method of that name."""
    return name in _METHODS


def names_of_others() -> list[str]:
    """Return the names of the methods that are made of others."""
    return [method.name for method in _METHODS.values() if method.of_others]


@register_method("linear", order=0, cached=True)
def linear(head: str) -> str:
    """Label a linear head on cached features."""
    return head_label(head)


@register_method("head", order=1, cached=True)
def head(head: str) -> str:
    """Label another head on cached features."""
    return head_label(head)


@register_method("columns", order=2)
def columns(head: str) -> str:
    """Label a head on columns of a table alone, without images."""
    return f"{head_label(head)} on columns"


@register_method("joined", order=3, cached=True)
def joined(head: str) -> str:
    """Label a head on cached features with columns of a table beside them."""
    return f"{head_label(head)} + columns"


@register_method("ensemble", order=4, cached=True, of_others=True)
def ensemble(kind: str) -> str:
    """Label what is made of several heads on cached features: their mean, or a linear model on what they say."""
    return "stack of heads" if kind == "stack" else f"{kind} ensemble"


@register_method("finetune", order=5)
def finetune(blocks: str) -> str:
    """Label what is fine-tuned."""
    return f"fine-tune {blocks}"


@register_method("uncached", order=6)
def uncached(head: str) -> str:
    """Label a head that trains on images through the frozen network: what caching saves."""
    return f"frozen network {head_label(head)}"


@register_method("scratch", order=7)
def scratch(blocks: str) -> str:
    """Label a network without pretrained weights: what these are worth."""
    return f"scratch {blocks}"


@register_method("mixture", order=8, of_others=True)
def mixture(kind: str) -> str:
    """Label the mean over networks of which some train on images, so that nothing is folded."""
    return f"{kind} mixture of networks"

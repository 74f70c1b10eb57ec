"""What ``--augment`` may say: a preset, or the names of transforms in the order they are done, with their arguments.

Words and numbers alone, so that the options can be checked without torch. What a transform is called and which number
it takes stands in its decorator, in ``stages.data.augment.transforms``, which is read without an import.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cache.errors import UsageError, alternatives
from cache.registry import Registration, Registry
from stages.config.version_1 import AUGMENT_NAMES

PRESETS = ("none", "light", "medium", "strong")
"""Ready-made augmentations, from nothing to strong."""

TTA = Literal["none", "flip", "crops"]
"""Renderings that an image is tested on, see ``stages.data.augment.tta``."""


class Magnitude(NamedTuple):
    """The number that a transform takes in parentheses: what it means, its default, and its range."""

    meaning: str
    default: float
    lowest: float
    highest: float
    whole: bool = False


@dataclass(frozen=True)
class OpKind(Registration):
    """What a transform says of itself.

    Attributes
    ----------
    argument : tuple, optional
        A `Magnitude`, as a literal; None where it takes no argument.
    takes_photograph : bool
        Whether it makes the square of a photograph of any shape, so that it must come first; others work on the square.
    """

    argument: tuple[str, float, float, float] | tuple[str, float, float, float, bool] | None = None
    takes_photograph: bool = False

    @property
    def magnitude(self) -> Magnitude | None:
        """The number that it takes in parentheses."""
        return None if self.argument is None else Magnitude(*self.argument)


OPS = Registry[OpKind, Any]("op", OpKind, ["stages.data.augment"], option="augment")
"""The transforms that lists are made of."""

_WRITTEN = re.compile(r"(?P<name>[^()]*)(?:\((?P<argument>[^()]*)\))?")


class AugmentOp(NamedTuple):
    """One transform of a list, with its argument."""

    name: str
    argument: float | None

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name}({self.argument:g})"


def parse_augment(augment: str) -> tuple[AugmentOp, ...]:
    """Return the transforms of a list such as ``crop(0.5)+flip+rotation(15)``, defaults filled in.

    Raises
    ------
    UsageError
        If a name is unknown (the nearest is suggested), an argument is not a number or out of range, or what takes the
        photograph itself, such as `crop`, is not the first.
    """
    steps = tuple(_step(part.strip(), augment) for part in augment.split("+"))
    late = next((step.name for step in steps[1:] if OPS.find(step.name).takes_photograph), None)
    if late is not None:
        raise UsageError(
            f"`augment` {augment}: {late} must come first, because the others work on the square that it cuts out"
        )
    return steps


def require_augment(augment: str) -> None:
    """Refuse what is neither a preset nor a list of transforms.

    Raises
    ------
    UsageError
        As `parse_augment`.
    """
    if augment not in PRESETS:
        parse_augment(augment)


def _step(written: str, augment: str) -> AugmentOp:
    parts = _WRITTEN.fullmatch(written)
    if parts is None or not parts["name"]:
        raise UsageError(f"`augment` {augment}: {written!r} is not a name, or a name with one number, as in crop(0.5)")
    name, argument = parts["name"].strip(), parts["argument"]
    if name in PRESETS:
        raise UsageError(f"`augment` {augment}: {name} is a preset and stands alone; write out what it does")
    if name in AUGMENT_NAMES:
        raise UsageError(f"`augment` {augment}: {name!r} is called {AUGMENT_NAMES[name]} now")
    if name not in OPS.names():
        raise UsageError(
            f"`augment` {augment}: there is no transform {name!r}."
            f"{alternatives(name, (*PRESETS, *OPS.names()), listed_by='The help of `augment`')}"
        )
    takes = OPS.find(name).magnitude
    if takes is None:
        if argument is not None:
            raise UsageError(f"`augment` {augment}: {name} takes no argument; write {name} alone")
        return AugmentOp(name, None)
    return AugmentOp(
        name, takes.default if argument is None else _number(argument, takes, f"`augment` {augment}: {name}")
    )


def _number(written: str, takes: Magnitude, where: str) -> float:
    kind = int if takes.whole else float
    try:
        number = kind(written)
    except ValueError:
        kind_words = "a whole number" if takes.whole else "a number"
        raise UsageError(f"{where}({written}): {takes.meaning} must be {kind_words}") from None
    if not takes.lowest <= number <= takes.highest:  # nan is not
        raise UsageError(f"{where}({written}): {takes.meaning} must be from {takes.lowest:g} to {takes.highest:g}")
    return number

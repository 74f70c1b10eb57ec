"""What the probability from which on a class is predicted is chosen for, as options say it: a recall, or costs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cache.errors import UsageError

_PATTERN = re.compile(
    r"(?:(?P<name>.+):)?(?:recall=(?P<recall>\d*\.?\d+)|cost=(?P<missed>\d*\.?\d+):(?P<false_alarm>\d*\.?\d+))"
)


@dataclass(frozen=True)
class Goal:
    """What a threshold is to reach.

    Attributes
    ----------
    text : str
        As it was asked for.
    class_name : str or None
        The class that is looked for; None for the second of two.
    recall : float or None
        The share of that class that is to be found.
    costs : tuple of float or None
        What an image of that class costs that is missed, and one of the other that is taken for it.
    """

    text: str
    class_name: str | None
    recall: float | None
    costs: tuple[float, float] | None


def goal_of(text: str | None) -> Goal | None:
    """Return what ``recall=0.95``, ``cost=5:1`` or, with the name of the class, ``defective:recall=0.95`` asks for.

    None asks for nothing.

    Raises
    ------
    UsageError
        If it is none of these, or a number is out of bounds.
    """
    if text is None:
        return None
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(
            f"`threshold_for` {text!r} must be recall=SHARE or cost=MISSED:FALSE_ALARM, as recall=0.95 or cost=5:1; "
            "with the class that is looked for before it, as defective:recall=0.95, where that is not the second"
        )
    if match["recall"] is not None:
        recall = float(match["recall"])
        if not 0 < recall < 1:
            raise UsageError(f"`threshold_for` {text}: a recall lies between 0 and 1")
        return Goal(text, match["name"], recall, None)
    costs = float(match["missed"]), float(match["false_alarm"])
    if min(costs) <= 0:
        raise UsageError(f"`threshold_for` {text}: costs are above 0")
    return Goal(text, match["name"], None, costs)

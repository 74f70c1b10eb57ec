"""How long a search goes on: until a budget of time is used up, or until so many trials are done."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cache.errors import UsageError

Clock = Callable[[], float]
"""Seconds from some moment on, as `time.monotonic`."""

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)


def parse_budget(text: str) -> float:
    """Return the seconds of a budget: 90s, 3m, 1h30m.

    Raises
    ------
    UsageError
        If it is none, or nothing.
    """
    found = _BUDGET.fullmatch(text.strip().replace(" ", "").lower())
    parts = (None, None, None) if found is None else found.groups()
    seconds = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True) if part is not None)
    if seconds <= 0:
        raise UsageError(f"`budget` {text!r} is a time with its unit: 90s, 3m, 1h30m")
    return seconds


@dataclass
class Budget:
    """What a search may take.

    Attributes
    ----------
    seconds : float
        Of this command; without end where trials are counted.
    trials : float
        At most so many, those of earlier commands among them.
    clock : callable
    """

    seconds: float = math.inf
    trials: float = math.inf
    clock: Clock = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return self.clock() - self._started

    @property
    def left(self) -> float:
        """Seconds that remain; fewer than none where more was taken."""
        return self.seconds - self.elapsed

    def allows(self, number: int, estimate: float) -> bool:
        """Return whether trial `number`, from 1, may begin, which takes an estimated time in seconds.

        The first one may whatever it takes: without it there is no answer.
        """
        if number > self.trials:
            return False
        return number == 1 or estimate <= self.left

"""Which values, channels and pages of an image file are read: the words of the options, understood."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from cache.errors import UsageError

_BITS = (1, 32)
_RANGES = "full, bits:N, LOW,HIGH, percentile:P,Q or auto"


@dataclass(frozen=True)
class IntensityRange:
    """Which values of images with more than 8 bits a channel are shown as black and as white.

    Attributes
    ----------
    kind : str
        'full': as each file's header says. 'values': from `low` to `high`. 'percentile' and 'auto' are looked for in
        the images of a data set, which gives one of the other two.
    low, high : float
        For 'values' the black and the white value; for 'percentile' the two percentiles, 0 to 100.
    """

    kind: str = "full"
    low: float = 0.0
    high: float = 0.0

    @property
    def is_resolved(self) -> bool:
        """Whether the range is known without looking at images."""
        return self.kind in ("full", "values")

    def __str__(self) -> str:
        """Return the word that `parse_intensity_range` reads."""
        limits = ",".join(str(int(value)) if value.is_integer() else repr(value) for value in (self.low, self.high))
        if self.kind == "values":
            bits = (int(self.high) + 1).bit_length() - 1
            return f"bits:{bits}" if self.low == 0 and self.high == 2**bits - 1 else limits
        return f"percentile:{limits}" if self.kind == "percentile" else self.kind


FULL = IntensityRange()
"""What the headers say."""


def parse_intensity_range(text: str) -> IntensityRange:
    """Return what the option `intensity_range` says.

    Raises
    ------
    UsageError
        If it says none of what it may.
    """
    if text in ("full", "auto"):
        return IntensityRange(text)
    kind, _, values = text.rpartition(":")
    kind = kind or "values"
    try:
        if kind == "bits" and _BITS[0] <= int(values) <= _BITS[1]:
            return IntensityRange("values", 0.0, float(2 ** int(values) - 1))
        if kind in ("values", "percentile"):
            low, high = (float(value) for value in values.split(","))
            if isfinite(low) and isfinite(high) and low < high and (kind == "values" or (low >= 0 and high <= 100)):
                return IntensityRange(kind, low, high)
    except ValueError:
        pass
    raise UsageError(
        f"`intensity_range` {text!r} is none of {_RANGES}: N is 1 to 32, LOW less than HIGH, P and Q are 0 to 100"
    )


RGB = "rgb"
ALL = "all"
COLORS = 3
"""Channels that networks are trained on."""


def parse_channels(text: str) -> tuple[int, ...]:
    """Return the numbers, from 0, of the channels that the option `channels` names; none for 'rgb' and 'all'.

    Raises
    ------
    UsageError
        If it names none of the two, and no numbers.
    """
    if text in (RGB, ALL):
        return ()
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise UsageError(f"`channels` {text!r} is neither {RGB} nor {ALL} nor numbers from 0 on, as 2,1,0")
    return numbers


PAGES = ("first", "middle", "max")


def parse_page(text: str) -> str | int:
    """Return the page that the option `page` names: one of `PAGES`, or its number, from 0.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if text in PAGES:
        return text
    if text.isdecimal():
        return int(text)
    raise UsageError(f"`page` {text!r} is not {', '.join(PAGES)} or a number from 0 on")

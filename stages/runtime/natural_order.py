"""Names in the order in which a person counts: 2 before 10."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return what names are sorted by: their numbers count by value, all else by alphabet.

    Of names that differ in leading zeros alone, as 1 and 01, the longer comes last.
    """
    parts = _NUMBER.split(name)
    return (*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part), (2, len(name), name))

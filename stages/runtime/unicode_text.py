"""Names as they may be shown: a name of a file need not be text, and two names that differ may look the same.

Names stay what they are wherever they are read again: manifests and tables of predictions hold the bytes of a file's
name. What is only looked at goes through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed: a terminal obeys them, and a page may not hold them."""


def as_unicode(text: str) -> str:
    r"""Return text that can be encoded: a byte of a name that is not UTF-8, which is no character, becomes ``\udcfc``.

    That is how JSON writes it, too. Text that is Unicode stays as it is.
    """
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    r"""Return text for a page, a figure or a terminal: Unicode without control characters, which are written ``\x1b``.

    Tabs and line feeds stay.
    """
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", as_unicode(text))


def told_apart(names: Sequence[str]) -> list[str]:
    """Return printable names, with words after those that would look the same.

    An accented letter is one character or two (Unicode's normal forms C and D: file names of macOS are in the latter),
    and class folders from two systems may look alike.
    """
    shown = [printable(name) for name in names]
    for look, indices in look_alikes(names).items():
        decomposed = unicodedata.normalize("NFD", look)
        for number, index in enumerate(indices, 1):
            forms = {look: "composed", decomposed: "decomposed"} if look != decomposed else {}
            shown[index] += f" ({forms.get(names[index], f'spelling {number}')})"
    return shown


def differing_in_capitals(names: Sequence[str]) -> list[list[str]]:
    """Return the names, printable, that are the same but for capital letters, group by group."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        look = unicodedata.normalize("NFC", printable(name))
        groups[look.casefold()].add(look)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def look_alikes(names: Sequence[str]) -> dict[str, list[int]]:
    """Return what several names look like, each time with their indices."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        indices[unicodedata.normalize("NFC", printable(name))].append(index)
    return {look: group for look, group in indices.items() if len(group) > 1}

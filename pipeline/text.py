"""Numbers and tables as people read them."""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN_WIDTH = 120
"""Columns of text where nobody says how wide the terminal is: a file, a pipe."""

_BETWEEN = 2
"""Spaces between the columns of a table."""


def terminal_width() -> int:
    """Return how many columns of text the terminal shows; COLUMNS of the environment says otherwise."""
    return shutil.get_terminal_size((UNKNOWN_WIDTH, 24)).columns


def wrapped(text: str, width: int, bullet: str = "") -> str:
    """Return words on lines of at most `width` columns, the later ones indented as far as `bullet` is wide.

    A number stays with its ``%``.
    """
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(
        together,
        max(width, 40),
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}%", " %")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, width: int | None = None) -> str:
    """Return an aligned text table; the first `left` columns are flush left, the others flush right.

    Columns beyond `width` stand in further tables below it, each of which begins with the first column again.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    parts: list[list[int]] = [[0]]
    for column in range(1, len(header)):
        if width is not None and len(parts[-1]) > 1:
            taken = sum(widths[shown] + _BETWEEN for shown in parts[-1])
            if taken + widths[column] > width:
                parts.append([0])
        parts[-1].append(column)
    return "\n\n".join(
        _aligned([[row[column] for column in part] for row in (header, *rows)], sum(column < left for column in part))
        for part in parts
    )


def _aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return rows, the first of them the header, in columns."""
    header, *rows = rows
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        (" " * _BETWEEN)
        .join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def format_count(number: float) -> str:
    """Return a number of things shortened for reading: 4.01 M, 12.3 k, 512."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def byte_count(number: float) -> str:
    """Return a size in powers of 1024: 2.5 KiB, 640 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.3g} {unit}" if unit != "B" and number < 999.5 else f"{number:,.0f} {unit}"
        number /= 1024
    return ""


def duration(seconds: float) -> str:
    """Return a time as a person says it: 0.4 s, 83 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float, *, digits: int = 1) -> str:
    """Return 0.879 as ``87.9 %``."""
    return f"{100 * share:.{digits}f} %"


def short_percent(share: float) -> str:
    """Return 0.5 as ``50 %`` and 0.125 as ``12.5 %``: for the ticks of an axis."""
    return f"{round(100 * share, 2):g} %"


def points(share: float) -> str:
    """Return a difference of 0.025 as ``+2.5``."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0 makes minus zero zero


def format_score(value: float, *, as_percent: bool) -> str:
    """Return a score as a share, ``87.9 %``, or as a number, ``0.879``, ``150,234``; ``-`` where there is none."""
    if math.isnan(value):
        return "-"
    return percent(value) if as_percent else _plain(value)


def in_unit(value: float) -> str:
    """Return a number in its unit as people read it: 312,000, 24.5, 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def format_difference(value: float, *, as_percent: bool) -> str:
    """Return a difference of scores with its sign: of shares in points, ``+2.5``, else ``+0.025``."""
    return points(value) if as_percent else f"{'-' if round(value, 3) < 0 else '+'}{_plain(abs(value))}"


def format_error(value: float, *, as_percent: bool) -> str:
    """Return the standard error of a score: of a share in points, ``1.5``, else ``0.015``."""
    return f"{100 * value:.1f}" if as_percent else _plain(value)


def tick(value: float, *, as_percent: bool) -> str:
    """Return a score for the ticks of an axis: 0.5 as ``50 %`` where people read it as a share, else as ``0.5``."""
    return short_percent(value) if as_percent else f"{round(value, 4):g}"


def format_range(ends: tuple[float, float], between: str = " to ", *, as_percent: bool) -> str:
    """Return two scores without a unit, ``85.0 to 90.1`` of shares in percent, else ``0.850 to 0.901``."""
    if any(math.isnan(end) for end in ends):
        return "not known"
    return between.join(f"{100 * end:.1f}" if as_percent else _plain(end) for end in ends)


def _plain(value: float) -> str:
    """Return a score that is no share: ``0.879``; one in a target's unit may be large, ``150,234``."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def capitalized(text: str) -> str:
    """Return words with a capital at their beginning, the rest as it is: ``F1`` and ``mAP`` stay as they are."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def in_markdown(words: str) -> str:
    """Return words, on one line, in which no name from the data is taken for Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split()))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of mappings in mappings under names with dots: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


_SEED = re.compile(r"\(seed (\d+)\)")


def once_for_all_seeds(notes: Iterable[str]) -> list[str]:
    """Return notes each once, in their order; those that differ in their seed alone are one that names all of them."""
    seeds_of: dict[str, list[str]] = {}
    for note in notes:
        seeds = seeds_of.setdefault(_SEED.sub("(seed)", note, count=1), [])
        if (found := _SEED.search(note)) and found[1] not in seeds:
            seeds.append(found[1])
    return [note.replace("(seed)", _of_seeds(seeds), 1) if seeds else note for note, seeds in seeds_of.items()]


def _of_seeds(seeds: Sequence[str]) -> str:
    return f"(seed {seeds[0]})" if len(seeds) == 1 else f"(seeds {', '.join(seeds[:-1])} and {seeds[-1]})"

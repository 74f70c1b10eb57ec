"""Every kind of file, folder and table that people have, and what comes of it: the cases, and the page made of them.

A case makes its files in an empty folder; what comes of it is what the product says when it reads them. A section is a
module here with its cases. ``python -m tests.what_is_read`` writes docs/what-is-read.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.options.flags_in_text import as_flags

PAGE = Path(__file__).parents[2] / "docs" / "what-is-read.md"

_HEAD = """# What is read

Every kind of file, folder and table that was thought of, and what comes of it. This page is made from the cases of the
tests by `python -m tests.what_is_read`, and a test holds that it is what the product says today.
"""


class Case(NamedTuple):
    """A kind of thing.

    Attributes
    ----------
    kind
        In words.
    make
        Leaves it in an empty folder, and returns what is to be read.
    options
        Of the data, with which it is read.
    """

    kind: str
    make: Callable[[Path], Path]
    options: Mapping[str, Any] = MappingProxyType({})


class Section(NamedTuple):
    """Cases that are read in one way.

    Attributes
    ----------
    title, text
        What stands above its table.
    cases
    outcome
        Reads what a case made, and returns in words what came of it.
    """

    title: str
    text: str
    cases: list[Case]
    outcome: Callable[..., str]


def outcome_of(section: Section, case: Case) -> str:
    """Return what comes of a case, in words, with no path of this machine in them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = section.outcome(case.make(folder), **case.options)
        words = words.replace(f"{folder}/", "").replace(str(folder), ".").replace(str(Path.home()), "HOME")
        return as_flags(words)


def sections() -> list[Section]:
    """Return all sections in the order of the page."""
    from tests.what_is_read import files, folders, tables, targets, unlabeled

    return [files.SECTION, folders.SECTION, tables.SECTION, targets.SECTION, unlabeled.SECTION]


def page() -> str:
    """Return the page in Markdown."""
    parts = [_HEAD]
    for section in sections():
        rows = [f"| {_cell(case.kind)} | {_cell(outcome_of(section, case))} |" for case in section.cases]
        table = "\n".join(["| kind | what comes of it |", "|---|---|", *rows])
        parts.append(f"## {section.title}\n\n{section.text}\n\n{table}\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>").encode("utf-8", "backslashreplace").decode()

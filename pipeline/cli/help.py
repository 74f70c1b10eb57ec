"""Help in two levels: ``--help`` shows the options that most people use, ``--help-all`` every one, stage by stage.

Which these are is said by the options themselves, in their metadata; what belongs to a command alone is always shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from cyclopts.help import DefaultFormatter

HELP_ALL = "--help-all"
EPILOGUE = "`COMMAND --help` shows the options that are used most, `COMMAND --help-all` all of them."

_ALL = ContextVar("all options are shown", default=False)


@contextmanager
def all_options_shown() -> Iterator[None]:
    """Let help show every option, as long as the block runs."""
    before = _ALL.set(True)
    try:
        yield
    finally:
        _ALL.reset(before)


class StageHelp:
    """Prints the options of one stage, as ``help_formatter`` of their group.

    Parameters
    ----------
    options
        The class of the options.
    """

    def __init__(self, options: type) -> None:
        self._common = {
            f"--{option.name.replace('_', '-')}" for option in fields(options) if option.metadata.get("common")
        }

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Print a panel of help; nothing where no option of it is shown."""
        if not _ALL.get():
            panel = panel.copy(entries=[entry for entry in panel.entries if self._common & {*entry.names}])
        if panel.entries:
            DefaultFormatter()(console, options, panel)


def second_level(console: Any, options: Any, panel: Any) -> None:
    """Print a panel of help where every option is shown, as ``help_formatter`` of the group of what few people use."""
    if _ALL.get():
        DefaultFormatter()(console, options, panel)

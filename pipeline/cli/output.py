"""What the commands print on standard output: plain lines, each option in them as its flag."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.options.flags_in_text import as_flags
from stages.runtime.progress import log_event
from stages.runtime.unicode_text import printable


def echo(*lines: str) -> None:
    """Print lines for the person at the terminal, whatever names are in them."""
    for line in lines:
        text = as_flags(line)
        log_event("message", text=text)
        print(printable(text), flush=True)  # noqa: T201


class _Printer(logging.Handler):
    """Prints the bare message; what goes wrong with that, such as a reader that is gone, ends the command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        echo(record.getMessage())


@contextmanager
def messages_printed() -> Iterator[None]:
    """Print what the experiment logs, as long as the block runs."""
    logger, printer = logging.getLogger("cutonce"), _Printer(logging.INFO)
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(level)

"""What the commands print on standard output: plain lines, each option in them as its flag."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.options.flags_in_text import as_flags
from stages.runtime.progress import log_event
from stages.runtime.unicode_text import printable


def echo(*lines: str) -> None:
    """Print lines for the person at the terminal, whatever names are in them."""
    for line in lines:
        text = as_flags(line)
        log_event("message", text=text)
        print(printable(text), flush=True)  # noqa: T201


def say_begun(command: str, arguments: Mapping[str, Any]) -> None:
    """Say on standard error what is being done, as long as the libraries for it are not loaded, which takes seconds.

    Parameters
    ----------
    command
    arguments
        Of its function: data and where it goes are said.
    """
    if "torch" in sys.modules or os.environ.get("RANK", "0") != "0":
        return
    data, out = getattr(arguments.get("data"), "data", None), arguments.get("out")
    words = [command, *([] if data is None else ["of", str(data)]), *([] if out is None else ["into", str(out)])]
    print(printable(f"{' '.join(words)}: loading libraries, some seconds"), file=sys.stderr, flush=True)  # noqa: T201


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

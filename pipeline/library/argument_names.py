"""Messages name an option of the stages in backticks; a function of the library may spell it otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cache.errors import CutonceError


@contextmanager
def argument_names(**arguments: str) -> Iterator[None]:
    """Let errors from within name options as the caller knows them: ``storage_dtype="dtype"``."""
    try:
        yield
    except CutonceError as error:
        error.args = tuple(_renamed(part, arguments) if isinstance(part, str) else part for part in error.args)
        raise


def _renamed(message: str, arguments: dict[str, str]) -> str:
    return re.sub(r"`(\w+)`", lambda option: f"`{arguments.get(option[1], option[1])}`", message)

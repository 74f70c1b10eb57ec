"""What is worth saying once, however often it is met with."""

from __future__ import annotations

import logging
from functools import cache

_LOG = logging.getLogger("cutonce")


@cache
def say_once(message: str) -> None:
    """Say something, once in a process."""
    _LOG.info(message)

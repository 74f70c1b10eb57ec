"""Where a result comes from: the command, when, by which versions and which commit of the code, from which data."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""Where the code is: of a checkout the folder of the repository."""

_COMMAND: ContextVar[str | None] = ContextVar("command", default=None)


@contextmanager
def command_named(arguments: Sequence[str]) -> Iterator[None]:
    """Say what command runs in the block, by its arguments."""
    token = _COMMAND.set(shlex.join(["cutonce", *arguments]))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def provenance(data_digest: str) -> dict[str, Any]:
    """Return where a result that is made now comes from, as JSON values.

    Parameters
    ----------
    data_digest : str
        Of the samples, their targets and their splits.

    Returns
    -------
    dict
        ``command`` (None where Python called), ``date`` (UTC, ISO 8601), ``versions``, ``commit`` (with ``-dirty``
        behind it where files differ from it; None where it is not known) and ``data_digest``.
    """
    from stages.runtime.environment import describe_machine  # torch, for which a command's help does not wait

    return {
        "command": _COMMAND.get(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": describe_machine(),
        "commit": commit_of_code(ROOT),
        "data_digest": data_digest,
    }


@cache
def commit_of_code(root: Path) -> str | None:
    """Return the commit of the code that runs: of its checkout, or that it was installed from; None if not known."""
    if not (root / ".git").exists():
        return _commit_installed()
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None


def _commit_installed() -> str | None:
    """Return what pip notes of an installation from a repository (PEP 610)."""
    try:
        noted = metadata.distribution("cutonce").read_text("direct_url.json")
        commit = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return commit if isinstance(commit, str) else None

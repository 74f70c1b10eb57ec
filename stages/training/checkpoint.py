"""The file a killed training goes on from. What is in it, the loop knows; whether it may be used is decided here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from cache.atomic_write import atomic_path, remove_stale_temporaries
from cache.errors import CutonceError, UsageError
from cache.kept import keep_file
from stages.config.version_1 import OPTION_NAMES
from stages.runtime.device import is_lost

Value = str | int | float | bool | None
TrainingFingerprint = Mapping[str, Value]
"""Everything that shapes a training, by the name of its option or what it is."""

_VERSION = 2


class CheckpointFile:
    """One file, replaced as a whole by each newer state.

    Parameters
    ----------
    path : Path, optional
        None keeps nothing.
    identity : mapping of str to JSON values
        A file of a training with another one is refused.
    seconds : float
        Time between two states within an epoch.
    """

    def __init__(self, path: Path | None, identity: TrainingFingerprint, seconds: float) -> None:
        self.path = path
        self._identity = dict(identity)
        self._seconds = seconds
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last state is old enough for a newer one."""
        return self.path is not None and time.monotonic() - self._saved_at >= self._seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file, so that it is whole whatever happens in between.

        Raises
        ------
        CutonceError
            If it cannot be written; the former file is left.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self.path.parent)  # they are as large as the file: of a process killed in here
            with atomic_path(self.path) as temporary, temporary.open("wb") as file:
                torch.save({"version": _VERSION, "identity": self._identity, "state": dict(state)}, file)
        except (OSError, RuntimeError) as error:  # torch's writer has no more to say of a full disk than RuntimeError
            if isinstance(error.__context__, KeyboardInterrupt):  # in a write: torch's writer then misses its bytes
                raise error.__context__ from None
            if is_lost(error):
                raise
            raise CutonceError(
                f"the checkpoint {self.path} cannot be written: {error}; make room, and run the same command again to "
                "go on from the last one"
            ) from error
        self._saved_at = time.monotonic()
        keep_file("checkpoint", self.path)

    def load(self) -> dict[str, Any] | None:
        """Return the state of the file, its tensors on the CPU, or None where there is no file.

        Raises
        ------
        UsageError
            If it is of another training: says what differs.
        CutonceError
            If it is damaged, or of another version of Cutonce.
        """
        if self.path is None:
            return None
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            version, identity, state = (saved.get(name) for name in ("version", "identity", "state"))
        except (UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError, TypeError) as error:
            raise CutonceError(
                f"the checkpoint {self.path} is damaged; delete it to start this training again"
            ) from error
        if version != _VERSION:
            raise CutonceError(
                f"the checkpoint {self.path} was made by another version of Cutonce; go on with that one, or delete "
                "the file to start this training again"
            )
        self._check_fingerprint(identity)
        loaded: dict[str, Any] = state
        return loaded

    def _check_fingerprint(self, identity: TrainingFingerprint) -> None:
        missing = "nothing"
        names = sorted({*identity, *self._identity})
        # an option that one of the two versions did not have is as good as one that was not given
        differing = [name for name in names if identity.get(name) != self._identity.get(name)]
        if differing:
            values = ((name, identity.get(name, missing), self._identity.get(name, missing)) for name in differing)
            differences = "; ".join(
                f"{OPTION_NAMES.get(name, name)} was {before} and is {after}" for name, before, after in values
            )
            raise UsageError(
                f"the checkpoint {self.path} is of another training: {differences}. Say what was said then to go on "
                "from it, "
                "or delete the file to start anew"
            )

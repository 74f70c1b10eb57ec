"""How busy the interpreter's lock is: whether threads wait for each other where each would have something to do."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

_PAUSE = 0.01
"""Seconds between two looks."""


class InterpreterProbe:
    """A thread that asks for the interpreter's lock from time to time and notes how long it waits; for ``with``.

    A thread that wants the lock of a busy interpreter gets it after ``sys.getswitchinterval``, a free one at once. So
    the share of that time which a look had to wait, averaged, says how busy it was. On a machine whose cores are all
    busy with other things it says too much, since waking takes longer there.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="interpreter-probe", daemon=True)
        self._busy = 0.0
        self._told = 0.0

    def __enter__(self) -> InterpreterProbe:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def seconds(self) -> float:
        """Return how many seconds the lock was taken since this was asked the last time."""
        busy = self._busy
        told, self._told = self._told, busy
        return busy - told

    def _look(self) -> None:
        interval = sys.getswitchinterval()
        before = time.perf_counter()
        while not self._stopped.is_set():
            asked = time.perf_counter()
            time.sleep(_PAUSE)
            waited = max(time.perf_counter() - asked - _PAUSE, 0.0)
            now = time.perf_counter()
            self._busy += min(waited / interval, 1.0) * (now - before)
            before = now

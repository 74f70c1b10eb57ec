"""The interpreter's lock: how busy it is, and how soon a thread that waits for it gets it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_PAUSE = 0.01
"""Seconds between two looks."""

_TURN = 0.001
"""Seconds after which a thread hands the lock on to one that waits, within `short_turns`; else they are five
thousandths."""

_LOCK = threading.Lock()
_FOUND: list[float] = []
"""What was set before, once for each block of `short_turns` that somebody is within."""


@contextmanager
def short_turns() -> Iterator[None]:
    """Let no thread keep the interpreter's lock for long while another one waits for it.

    Whoever launches operators lets go of it at each, and would get it back only when the time of a thread is up that
    computes in Python meanwhile: a part of the work is some hundred operators. It is a setting of the process; the last
    who leaves puts back what the first has found.
    """
    with _LOCK:
        _FOUND.append(sys.getswitchinterval() if not _FOUND else _FOUND[0])
        sys.setswitchinterval(min(_FOUND[0], _TURN))
    try:
        yield
    finally:
        with _LOCK:
            found = _FOUND.pop()
            if not _FOUND:
                sys.setswitchinterval(found)


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

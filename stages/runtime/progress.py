"""How far long work is: a bar at a terminal, a line every half minute where there is none, JSON for programs.

Silent where nobody asked. What is told, and to whom, belongs to the thread or task that asked for it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cache.errors import UsageError
from stages.runtime.unicode_text import printable

LINE_SECONDS = 30.0
"""How often a line is written, and a record of the log, as long as there is something to do."""


@dataclass
class _Telling:
    """To whom it is told how far work is.

    Attributes
    ----------
    shown : str
        As of :func:`progress_bars`.
    log : int, optional
        Descriptor of the file that records go to.
    last : float
        When something was last told, by the monotonic clock.
    """

    shown: Literal["bars", "lines", "nothing"] = "nothing"
    log: int | None = None
    last: float = 0.0


_TELLING: ContextVar[_Telling | None] = ContextVar("how far work is", default=None)


@contextmanager
def progress_bars(shown: bool = True, *, lines: bool = False) -> Iterator[None]:
    """Show progress bars, or lines, or nothing, as long as the block runs: in this thread or task, not in others.

    A library draws nothing that it was not asked for; the commands ask for it once.

    Parameters
    ----------
    shown
        Whether bars are drawn.
    lines
        Whether, where they are not, a line is written to standard error every half minute.
    """
    before = _TELLING.get()
    log = None if before is None else before.log
    token = _TELLING.set(_Telling("bars" if shown else "lines" if lines else "nothing", log, time.monotonic()))
    try:
        yield
    finally:
        _TELLING.reset(token)


@contextmanager
def untold() -> Iterator[None]:
    """Tell nobody how far pieces of work in the block are: they are parts of one that is told as a whole."""
    token = _TELLING.set(_Telling())
    try:
        yield
    finally:
        _TELLING.reset(token)


@contextmanager
def json_log(path: Path | None) -> Iterator[None]:
    """Append what happens to a file as long as the block runs, one JSON object a line; nothing where there is no path.

    Each has ``time`` (ISO 8601, UTC), ``event``, and ``rank`` and ``processes`` under torchrun, whose processes may
    share a file. Of how far work is (``progress``): ``what``, ``done``, ``total`` (null where it is not known),
    ``unit``, ``seconds``, ``per_second``, ``seconds_left``, ``skipped``; when it begins, every half minute, and when it
    ends. Of what tells no number (``working``), every half minute: ``what``, ``seconds``. Of what is printed
    (``message``): ``text``. At the end ``end``, or ``error`` with ``text``.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise UsageError(f"`log_json` {path} cannot be written: {error.strerror}") from error
    before = _TELLING.get() or _Telling()
    token = _TELLING.set(_Telling(before.shown, descriptor, time.monotonic()))
    try:
        yield
        log_event("end")
    except BaseException as error:
        log_event("error", text=str(error) or type(error).__name__)
        raise
    finally:
        _TELLING.reset(token)
        os.close(descriptor)


def log_event(event: str, **values: object) -> None:
    """Append a record to the log, if there is one."""
    _record(_TELLING.get() or _Telling(), event, values)


def _record(telling: _Telling, event: str, values: Mapping[str, object]) -> None:
    if telling.log is None:
        return
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    record = {"time": now, "event": event, **_rank(), **values}
    # one call, so that the lines of several processes do not mix
    os.write(telling.log, (json.dumps(record) + "\n").encode("ascii"))


def _rank() -> dict[str, int]:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return {"rank": int(os.environ.get("RANK", "0")), "processes": processes} if processes > 1 else {}


@contextmanager
def working(label: str) -> Iterator[None]:
    """Tell every half minute that something is being done of which nobody knows how far it is, such as a closed fit.

    Nothing is said where it tells by itself how far it is, nor at a terminal.
    """
    telling = _TELLING.get() or _Telling()
    if telling.shown != "lines" and telling.log is None:
        yield
        return
    ended = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not ended.wait(max(telling.last + LINE_SECONDS - time.monotonic(), 0.01)):
            now = time.monotonic()
            if now - telling.last < LINE_SECONDS:
                continue
            telling.last = now
            if telling.shown == "lines":
                _write_line(f"{label}: {timedelta(seconds=round(now - started))} so far")
            _record(telling, "working", {"what": label, "seconds": round(now - started, 3)})

    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write_line(line: str) -> None:
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


class Progress(AbstractContextManager["Progress"]):
    """How far one piece of work is. Iterate over it, or enter it and tell it; :func:`progress` makes it.

    Attributes
    ----------
    done, skipped : int
        Units that are done, and those among them that came to nothing.
    total : int or None
        Units that there are, as far as it is known.
    """

    def __init__(self, iterable: Iterable[Any] | None, label: str, total: int | None, unit: str) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]  # it has been asked
        self.done = self.skipped = 0
        self._iterable, self._label, self.total, self._unit = iterable, label, total, unit
        self._telling = _TELLING.get() or _Telling()
        self._remark = ""
        self._started = self._marked = time.monotonic()
        self._done_at_mark = 0
        self._bar: Any = _bar(label, total, unit) if self._telling.shown == "bars" else None
        self._log()

    def __iter__(self) -> Iterator[Any]:
        assert self._iterable is not None
        with self:
            for item in self._iterable:
                yield item
                self.update()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._log()

    def update(self, units: int = 1, *, skipped: int = 0, remark: str = "") -> None:
        """Tell that so many more are done, and what is worth saying.

        Parameters
        ----------
        skipped
            How many of them came to nothing.
        remark
            Said behind the numbers from now on.
        """
        self.done += units
        self.skipped += skipped
        self._remark = remark or self._remark
        if self._bar is not None:
            self._bar.set_postfix_str(self._remark, refresh=False)
            self._bar.update(units)
        now = time.monotonic()
        if now - self._telling.last >= LINE_SECONDS:
            if self._telling.shown == "lines":
                _write_line(self._line(now))
            self._log()
            self._telling.last = self._marked = now
            self._done_at_mark = self.done

    def _rate(self, now: float) -> float:
        """Return units per second since something was last told."""
        return (self.done - self._done_at_mark) / max(now - self._marked, 1e-9)

    def _seconds_left(self, now: float) -> float | None:
        rate = self._rate(now)
        return None if self.total is None or not rate else max(self.total - self.done, 0) / rate

    def _line(self, now: float) -> str:
        rate, left = self._rate(now), self._seconds_left(now)
        counted = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        rank = _rank()
        parts = [
            f"{counted} {self._unit}",
            f"{rate:.3g} {self._unit}/s" if rate < 1000 else f"{rate:,.0f} {self._unit}/s",
            f"{timedelta(seconds=round(left))} left" if left is not None else "",
            f"{self.skipped:,} skipped" if self.skipped else "",
            self._remark,
            f"process {rank['rank']} of {rank['processes']}" if rank else "",
        ]
        return f"{self._label}: {', '.join(filter(None, parts))}"

    def _log(self) -> None:
        now = time.monotonic()
        left = self._seconds_left(now)
        log_event(
            "progress",
            what=self._label,
            done=self.done,
            total=self.total,
            unit=self._unit,
            seconds=round(now - self._started, 3),
            per_second=round(self._rate(now), 3),
            seconds_left=None if left is None else round(left, 1),
            skipped=self.skipped,
        )


def progress(
    iterable: Iterable[Any] | None = None, *, label: str, total: int | None = None, unit: str = "steps"
) -> Progress:
    """Return what tells how far work is, to whoever asked for it.

    Parameters
    ----------
    iterable
        Whose items are the units, where it is iterated over.
    label
        What is done.
    total
        Units; by default the length of `iterable`.
    unit
        What they are, in the plural.
    """
    return Progress(iterable, label, total, unit)


def _bar(label: str, total: int | None, unit: str) -> Any:
    """Return a tqdm bar, which appears after two seconds."""
    tqdm = import_module("tqdm.auto").tqdm  # in a notebook it looks for widgets
    return tqdm(desc=label, total=total, unit=f" {unit}", delay=2, leave=False, dynamic_ncols=True)

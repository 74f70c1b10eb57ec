"""How busy the interpreter is told to be, by a clock that is set."""

import sys
import threading

import pytest

from stages.runtime import interpreter
from stages.runtime.interpreter import InterpreterProbe, short_turns


class Clock:
    """A clock that stands still but for whoever sleeps, and after whose sleeps one waits as long as is asked."""

    def __init__(self, waits):
        self.now, self.waits = 0.0, list(waits)
        self.over = threading.Event()

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        if not self.waits:
            self.over.set()
            threading.Event().wait(0.001)
            return
        self.now += seconds + self.waits.pop(0)


@pytest.mark.parametrize(("share_of_interval", "busy"), [(0, 0), (0.5, 0.5), (1, 1), (7, 1)])
def test_the_share_of_the_switch_interval_that_is_waited_says_how_busy(monkeypatch, share_of_interval, busy):
    wait = share_of_interval * sys.getswitchinterval()
    clock = Clock([wait] * 20)
    monkeypatch.setattr(interpreter, "time", clock)
    with InterpreterProbe() as probe:
        assert clock.over.wait(10)
        told = probe.seconds()
        assert probe.seconds() == 0  # since it was asked the last time
    assert told == pytest.approx(busy * clock.now)
    assert clock.now > 0.2


def test_its_thread_ends_with_the_block():
    before = set(threading.enumerate())
    with InterpreterProbe():
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) == before


def test_turns_are_short_until_the_last_has_left():
    before = sys.getswitchinterval()
    first, second = short_turns(), short_turns()
    with first:
        assert sys.getswitchinterval() == pytest.approx(0.001)
        second.__enter__()
    assert sys.getswitchinterval() == pytest.approx(0.001)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == before


def test_turns_that_are_shorter_still_stay_so():
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with short_turns():
            assert sys.getswitchinterval() == pytest.approx(0.0002, rel=0.02)
    finally:
        sys.setswitchinterval(before)

import json
import threading
import time

import pytest

from cache.errors import UsageError
from stages.runtime import progress as module
from stages.runtime.progress import json_log, log_event, progress, progress_bars, working


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the monotonic clock, which stands still unless it is set."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def count(clock, *, seconds_each, units=3):
    with progress(label="extract", total=1000, unit="images") as meter:
        for _ in range(units):
            clock[0] += seconds_each
            meter.update(100, skipped=1, remark="limited by decode")


def test_nothing_is_told_unless_somebody_asks_for_it(capfd, clock):
    count(clock, seconds_each=60)
    with progress_bars(False):
        count(clock, seconds_each=60)
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_a_line_is_written_every_half_minute(capfd, clock, monkeypatch):
    with progress_bars(False, lines=True):
        count(clock, seconds_each=9)
    assert capfd.readouterr().err == ""
    with progress_bars(False, lines=True):
        count(clock, seconds_each=20, units=4)
        first, second = capfd.readouterr().err.splitlines()
        assert first == "extract: 200 of 1,000 images, 5 images/s, 0:02:40 left, 2 skipped, limited by decode"
        assert second.startswith("extract: 400 of 1,000 images, 5 images/s, 0:02:00 left, 4 skipped")
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("RANK", "3")
        count(clock, seconds_each=31, units=1)
        assert capfd.readouterr().err.endswith(", process 3 of 4\n")


def test_short_pieces_of_long_work_are_told_of_together(capfd, clock):
    """Else epochs of 20 seconds, an hour of them, would come to no line."""
    with progress_bars(False, lines=True):
        for _ in range(4):
            for _ in progress(range(2), label="epoch", unit="batches"):
                clock[0] += 10
    assert capfd.readouterr().err.splitlines() == [
        "epoch: 1 of 2 batches, 0.1 batches/s, 0:00:10 left",
        "epoch: 2 of 2 batches, 0.1 batches/s, 0:00:00 left",
    ]


def test_what_tells_no_number_is_told_of_as_long_as_it_takes(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.02)
    with json_log(tmp_path / "log"), progress_bars(False, lines=True), working("fit"):
        time.sleep(0.2)
    assert capfd.readouterr().err.startswith("fit: 0:00:00 so far\nfit: ")
    first = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert (first["event"], first["what"]) == ("working", "fit")
    with progress_bars(), working("fit"):
        time.sleep(0.05)
    assert capfd.readouterr().err == ""


def test_a_bar_is_drawn_at_a_terminal_and_one_thread_asks_for_itself_alone(capfd):
    shown = []
    with progress_bars():
        assert list(progress(iter("ab"), label="count")) == ["a", "b"]
        thread = threading.Thread(target=lambda: shown.append(progress(label="other")._bar))
        thread.start()
        thread.join()
        assert progress(label="own")._bar is not None
    assert shown == [None]


def test_programs_read_what_happens_line_by_line(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with json_log(tmp_path / "log"):
        count(clock, seconds_each=20)
        log_event("message", text="h\udcfctte")
    with pytest.raises(ZeroDivisionError), json_log(tmp_path / "log"):
        raise ZeroDivisionError("by zero")
    log_event("message", text="to nobody")
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record["event"] for record in records] == [*["progress"] * 3, "message", "end", "error"]
    assert [record["done"] for record in records[:3]] == [0, 200, 300]
    assert {name: records[1][name] for name in ("what", "total", "unit", "seconds", "seconds_left", "skipped")} == {
        "what": "extract",
        "total": 1000,
        "unit": "images",
        "seconds": 40,
        "seconds_left": 160,
        "skipped": 2,
    }
    assert (records[3]["text"], records[5]["text"], records[0]["rank"]) == ("h\udcfctte", "by zero", 0)
    with pytest.raises(UsageError, match="`log_json`"), json_log(tmp_path / "not there" / "log"):
        pass

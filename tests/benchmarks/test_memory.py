import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import memory
from benchmarks.memory import line_of
from tests import ready_processes


def test_a_line_has_the_peak_in_megabytes_and_against_the_first_and_how_many_samples_a_second_took():
    line = line_of({"samples": 3000, "before": 1e8, "after": 6e8, "seconds": 1.5}, 4e8)
    assert line.split() == ["3,000", "600", "1.500", "2,000"]


def test_the_script_prints_a_line_for_each_size_measured_against_the_first(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memory.py", "--samples", "1000", "1100"])
    ready = SimpleNamespace(run=lambda command, **_: ready_processes.run(*command[1:], check=True))
    monkeypatch.setattr(memory, "subprocess", ready)
    started = time.perf_counter()
    memory.main()
    _, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [line[0] for line in lines] == ["1,000", "1,100"]
    seconds = time.perf_counter() - started
    peaks = [float(line[1].replace(",", "")) for line in lines]
    assert min(peaks) > 100  # megabytes: torch alone is more
    assert [float(line[2]) for line in lines] == pytest.approx([1, peaks[1] / peaks[0]], abs=0.01)
    for samples, _, _, rate in lines:
        assert float(samples.replace(",", "")) / float(rate.replace(",", "")) < seconds

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.memory import line_of

ROOT = Path(__file__).parent.parent.parent


def test_a_line_has_the_peak_in_megabytes_and_against_the_first_and_how_many_samples_a_second_took():
    line = line_of({"samples": 3000, "before": 1e8, "after": 6e8, "seconds": 1.5}, 4e8)
    assert line.split() == ["3,000", "600", "1.500", "2,000"]


def test_the_script_prints_a_line_for_each_size_measured_against_the_first():
    command = [sys.executable, "benchmarks/memory.py", "--samples", "1000", "1100"]
    started = time.perf_counter()
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    _, *lines = (line.split() for line in completed.stdout.splitlines())
    assert [line[0] for line in lines] == ["1,000", "1,100"]
    seconds = time.perf_counter() - started
    peaks = [float(line[1].replace(",", "")) for line in lines]
    assert min(peaks) > 100  # megabytes: torch alone is more
    assert [float(line[2]) for line in lines] == pytest.approx([1, peaks[1] / peaks[0]], abs=0.01)
    for samples, _, _, rate in lines:
        assert float(samples.replace(",", "")) / float(rate.replace(",", "")) < seconds

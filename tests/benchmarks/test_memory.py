import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


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

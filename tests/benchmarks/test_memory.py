import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_script_prints_a_line_for_each_size_measured_against_the_first():
    command = [sys.executable, "benchmarks/memory.py", "--samples", "1000", "1100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, *lines = (line.split() for line in done.stdout.splitlines())
    assert [line[0] for line in lines] == ["1,000", "1,100"]
    assert lines[0][2] == "1.000"
    for _, peak, _, rate in lines:
        assert float(peak.replace(",", "")) > 100  # megabytes: torch alone is more
        assert float(rate.replace(",", "")) > 0

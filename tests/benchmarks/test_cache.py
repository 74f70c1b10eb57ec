import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_quick_run_prints_every_table(tmp_path):
    command = [sys.executable, "benchmarks/cache.py", "--quick", "--folder", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for table in ("Writing", "Reading", "A cache of 20,000 rows", "Compression of"):
        assert any(line.startswith(table) for line in lines)
    sides = {line.split("  ")[0]: line.split() for line in lines}
    for side in ("all: cutonce", "permuted: cutonce", "shuffled batches: cutonce"):
        ratio = float(sides[side][len(side.split()) + 1])
        assert ratio > 0
    assert float(sides["cutonce gzip"][2]) > 2 * float(sides["cutonce none"][2])  # times smaller
    assert not list(tmp_path.iterdir())

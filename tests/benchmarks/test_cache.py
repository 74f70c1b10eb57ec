import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cache import speeds

ROOT = Path(__file__).parent.parent.parent


def test_quick_run_prints_every_table(tmp_path):
    command = [sys.executable, "benchmarks/cache.py", "--quick", "--folder", tmp_path]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    lines = completed.stdout.splitlines()
    for table in ("Writing", "Reading", "A cache of 20,000 rows", "Compression of"):
        assert any(line.startswith(table) for line in lines)
    sides = {line.split("  ")[0]: line.split() for line in lines}
    speed = {side: float(cells[2]) for side, cells in sides.items() if side.startswith(("all: ", "permuted: "))}
    for side in ("all: cutonce", "permuted: cutonce"):
        ratio = float(sides[side][3])
        other = side.replace("cutonce", "numpy.memmap")  # of one turn each, so the ratio is that of the speeds
        assert ratio == pytest.approx(speed[side] / speed[other], rel=0.02, abs=0.01)
    assert float(sides["cutonce gzip"][2]) > 2 * float(sides["cutonce none"][2])  # times smaller
    assert not list(tmp_path.iterdir())


def test_a_ratio_is_of_speeds_taken_turn_by_turn():
    """What slows the machine in one turn slows both sides, so it must not count."""
    seconds = {"other": [2.0, 8.0, 4.0], "own": [1.0, 2.0, 2.0], "alone": [1.0, 1.0, 1.0]}
    _, _, *rows = speeds(seconds, 8_000_000, {"own": "other"}).splitlines()
    assert [row.split("  ", 1)[0] for row in rows] == ["other", "own", "alone"]
    assert [row.split()[1] for row in rows] == ["2", "4", "8"]
    assert rows[1].endswith("2.00 (2.00-4.00) of other")

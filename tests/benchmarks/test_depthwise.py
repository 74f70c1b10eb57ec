import math
from pathlib import Path

from benchmarks.depthwise import SHAPES
from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


def test_a_quick_run_prints_both_ways_for_every_shape_in_both_arithmetics():
    completed = run(ROOT / "benchmarks" / "depthwise.py", "--quick")
    assert completed.returncode == 0, completed.stderr
    rows = [line.split() for line in completed.stdout.splitlines() if "float" in line]
    assert [row[-4] for row in rows] == ["float32", "bfloat16"] * len(SHAPES)
    for row in rows:
        theirs, ours, ratio = map(float, row[-3:])
        assert math.isclose(ratio, theirs / ours, rel_tol=0.1, abs_tol=0.1)  # all three are rounded

import math
from pathlib import Path

from benchmarks.decode import KINDS
from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


def test_a_quick_run_prints_each_way_for_each_kind_of_file():
    completed = run(ROOT / "benchmarks" / "decode.py", "--quick")
    assert completed.returncode == 0, completed.stderr
    rows = [line.split() for line in completed.stdout.splitlines() if line.startswith(tuple(KINDS))]
    assert [row[0] for row in rows] == list(KINDS)
    for row in rows:
        pillow, _, ours, ratio = map(float, row[-4:])
        assert math.isclose(ratio, pillow / ours, rel_tol=0.1, abs_tol=0.1)  # all three are rounded

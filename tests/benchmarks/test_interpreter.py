from pathlib import Path

from benchmarks.interpreter import OTHERS, THREADS, VIEWS
from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


def test_a_quick_run_tells_what_holds_the_lock_of_files_images_and_views():
    completed = run(ROOT / "benchmarks" / "interpreter.py", "--quick")
    assert completed.returncode == 0, completed.stderr
    rows = [line.split() for line in completed.stdout.splitlines() if line.startswith("a ")]
    assert len(rows) == 1 + len(OTHERS) + len(VIEWS)
    for row in rows:
        every, held, rate = (float(number.replace(",", "")) for number in row[-3:])
        assert 0 < held <= every
        assert abs(rate * held / 1000 - 1) < 0.1
    assert all(float(row[-2]) < float(row[-3]) / 2 for row in rows[1 : 1 + len(OTHERS)])  # decoders let go of it
    emulated = {line[:15].strip(): line[15:].split() for line in completed.stdout.splitlines()[len(rows) + 3 :]}
    assert all(len(emulated[kind]) == len(THREADS) for kind in OTHERS)

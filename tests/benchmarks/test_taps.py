from pathlib import Path

from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


def test_a_line_says_when_the_loops_are_there_and_one_what_all_depths_of_a_network_cost():
    small = ["--networks", "efficientnet_lite0", "--turns", "1", "--image-size", "64", "--precision", "bf16"]
    completed = run(ROOT / "benchmarks" / "taps.py", *small)
    assert completed.returncode == 0, completed.stderr
    first, *lines = completed.stdout.splitlines()
    assert float(first.removeprefix("numba's loops are there after ").removesuffix(" s")) >= 0
    name, stages, blocks, inner, numbers, one_cut, all_taps, *ratio = lines[-1].split()
    assert (name, stages, blocks, inner, numbers) == ("efficientnet_lite0", "8", "9", "16", "27,280")
    assert float(one_cut) > 0
    assert float(all_taps) > 0
    assert len(ratio) == 4

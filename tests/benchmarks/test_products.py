from pathlib import Path

from tests.ready_processes import run

ROOT = Path(__file__).parent.parent.parent


def test_a_quick_run_prints_both_ways_of_a_product_and_of_a_network():
    completed = run(ROOT / "benchmarks" / "products.py", "--quick", "--networks", "timm:vit_tiny_patch16_224")
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    for name in ("a product of 64 columns", "timm:vit_tiny_patch16_224"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.count("(") == 1

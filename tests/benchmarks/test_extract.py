import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.extract import QUICK, Bench, main, speedup, spread
from benchmarks.measurement import FEATURES, Measurement

ROOT = Path(__file__).parent.parent.parent


def test_quick_run_prints_a_table_in_which_the_features_of_both_sides_agree(
    tmp_path, monkeypatch, capsys, in_ready_processes
):
    json_path = tmp_path / "found.json"
    command = ["extract.py", "--quick", "--only", "networks", "--images", "small", "--precisions", "fp32"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(json_path)])
    assert main() == 0
    printed = capsys.readouterr().out
    found = json.loads(json_path.read_text())
    (table,) = found["tables"]
    took = {(run["backbone"], run["side"]): run["process_seconds"] for run in found["runs"]}
    networks = {row[1]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    assert {*networks} == {*QUICK.networks, "geometric mean"}
    for name in QUICK.networks:
        assert float(networks[name]["same pixels"]) >= 0.99999
        assert float(networks[name]["cosine"].split()[0]) >= 0.9999
        ratio, process = (float(networks[name][column].split()[0]) for column in ("ratio", "process"))
        assert ratio == pytest.approx(float(networks[name]["fp32"]) / float(networks[name]["tutorial"]), rel=0.05)
        assert process == pytest.approx(took[name, "tutorial"] / took[name, "fp32"], abs=0.01)
        assert name in printed
    assert printed.rstrip().splitlines()[-1].startswith("processor ")


def test_sides_do_not_inherit_the_environment_that_commands_set():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = "import benchmarks.extract, os, sys; sys.exit('torch' in sys.modules or 'OMP_WAIT_POLICY' in os.environ)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment).returncode == 0


def test_baselines_wait_in_openmp_as_in_any_program_with_torch():
    def waiting(module):
        environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
        environment.pop("OMP_WAIT_POLICY", None)  # a command may have set it
        command = [sys.executable, "-c", f"import {module}"]
        completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return [line for line in completed.stderr.splitlines() if "SPINCOUNT" in line or "WAIT_POLICY" in line]

    assert waiting("benchmarks.baselines") == waiting("torch")


@pytest.mark.parametrize(("wrong_rows", "different"), [(0, False), (1, True)])
def test_one_image_with_other_features_makes_the_comparison_fail(tmp_path, wrong_rows, different):
    theirs = np.random.default_rng(0).random((8, 16))
    ours = theirs.astype(np.float16)
    ours[:wrong_rows, 0] += 0.1
    sides = []
    for name, features in (("theirs", theirs), ("ours", ours)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / FEATURES, features)
        sides.append(Measurement(8, folder=str(tmp_path / name)))
    bench = Bench(QUICK, ["small"], ["fp32"], {}, tmp_path)
    bench.same_features("a loop", *sides)
    assert bool(bench.different) == different


def test_a_ratio_is_the_time_of_the_baseline_over_ours_repetition_by_repetition():
    theirs = [Measurement(8, seconds=2.0, process_seconds=9.0), Measurement(8, seconds=8.0, process_seconds=8.0)]
    ours = [Measurement(8, seconds=1.0, process_seconds=3.0), Measurement(8, seconds=2.0, process_seconds=8.0)]
    assert speedup(theirs, ours) == ["3.00 (2.00-4.00)", "2.00"]


def test_a_ratio_is_told_with_its_range_over_the_repetitions():
    assert spread([2.0]) == "2.00"
    assert spread([4.0, 2.0, 2.5]) == "2.50 (2.00-4.00)"

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.forward import main

ROOT = Path(__file__).parent.parent.parent


def test_the_script_prints_a_line_for_each_step_measured_against_the_first(monkeypatch, capsys, in_ready_processes):
    command = [
        "forward.py",
        "--backbone",
        "squeezenet1_1",
        "--steps",
        "eager",
        "folded",
        "fused",
        "bf16-apart",
        "threads",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--repetitions", "1", "--batches", "1"])
    main()
    lines = capsys.readouterr().out.rstrip().splitlines()
    begun = ("eager", "+ BatchNorm folded", "+ activations", "bf16 instead, without", "+ a batch per core")
    table = [line for line in lines if line.startswith(begun)]
    assert all(line.startswith(words) for line, words in zip(table, begun, strict=True))
    assert all(any(word[:1].isdigit() for word in line.split()) for line in table)
    assert "1.00" in table[0].split()
    assert lines[-1].startswith("processor ")


def test_the_first_step_waits_in_openmp_as_in_any_program_with_torch():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    program = "import benchmarks.forward, os, sys; sys.exit('torch' in sys.modules or 'OMP_WAIT_POLICY' in os.environ)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment).returncode == 0

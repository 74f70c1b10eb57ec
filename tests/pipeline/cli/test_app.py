"""What a command needs of the process that it runs in, and what it does not let stand in its way."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.app import _leave_objects_to_the_end

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("loaded", [True, False])
def test_what_triton_leaves_is_freed_before_the_end_or_it_would_say_that_it_leaks(loaded, monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setitem(sys.modules, "triton", sys)
    if not loaded:
        monkeypatch.delitem(sys.modules, "triton")
    _leave_objects_to_the_end()
    assert bool(frozen) != loaded


def test_a_command_runs_whatever_backend_a_notebook_exports_and_whatever_a_terminal_can_show(tmp_path):
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / "images" / label / f"{number}.png")
    environment = {**os.environ, "MPLBACKEND": "module://a_backend.that_is_not_installed", "PYTHONPATH": str(ROOT)}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    sheet_name = "sh\udcfc\N{PARTY POPPER}t.png"
    command = [sys.executable, "-m", "pipeline", "contact-sheet", "--data", "images", "--out", sheet_name]
    command += ["--log-json", "events.jsonl"]
    completed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert r"sh\udcfc" in completed.stdout
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert os.fsencode(sheet_name) in os.fsencode(events[-2]["text"])
    assert events[-1]["event"] == "end"
    with Image.open(tmp_path / sheet_name) as sheet:
        assert min(sheet.size) > 100

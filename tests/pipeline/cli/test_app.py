"""What a command needs of the process that it runs in, and what it does not let stand in its way."""

import gc
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.app import _leave_objects_to_the_end, main
from pipeline.experiment.setup import run_setup

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


def test_a_command_that_is_stopped_before_anything_is_finished_does_not_say_that_it_goes_on(
    tmp_path, monkeypatch, capsys
):
    def stopped(*_):
        raise KeyboardInterrupt

    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{label}" for number, label in enumerate("aba")]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    command = ["extract", "--data", str(tmp_path / "table.csv"), "--backbone", "timm:resnet10t", "--weights", "none"]
    command += ["--image-size", "32", "--cache", str(tmp_path / "cache")]
    with monkeypatch.context() as patched:
        patched.setattr(run_setup, "extract_features", stopped)
        assert main(command) == 1
    begins = "stopped before anything was finished: the same command begins where this one did.\n"
    assert capsys.readouterr().err.endswith(begins)
    extract_features = run_setup.extract_features
    monkeypatch.setattr(run_setup, "extract_features", lambda *given: stopped(extract_features(*given)))
    assert main(command) == 1
    kept = "stopped. 3 rows of features are kept; the same command goes on from there.\n"
    assert capsys.readouterr().err.endswith(kept)
    assert main(command) == 1  # all of it was there
    assert capsys.readouterr().err.endswith(begins)


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
    assert completed.stderr.startswith("contact-sheet of images into sh"), completed.stderr
    assert r"sh\udcfc" in completed.stdout
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert os.fsencode(sheet_name) in os.fsencode(events[-2]["text"])
    assert events[-1]["event"] == "end"
    with Image.open(tmp_path / sheet_name) as sheet:
        assert min(sheet.size) > 100


def test_a_contact_sheet_of_another_ending_is_refused_before_anything_is_loaded(tmp_path, capsys):
    assert main(["contact-sheet", "--data", "digits", "--out", str(tmp_path / "sheet.xyz")]) == 2
    assert "sheet.xyz: a contact sheet is a .png or .svg file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas of glibc's allocator")
def test_threads_that_a_command_starts_have_no_arena_of_their_own():
    script = """
import threading
from pipeline.cli.app import main
from stages.runtime.allocator import count_arenas, in_main_arena
before = count_arenas()
main(["--version"])
kept = []
thread = threading.Thread(target=lambda: kept.append(in_main_arena()))
thread.start()
thread.join()
print(kept, count_arenas() == before)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment["PYTHONPATH"] = str(ROOT)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.splitlines()[-1] == "[True] True"

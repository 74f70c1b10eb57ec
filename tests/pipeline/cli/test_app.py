"""What a command needs of the process that it runs in, and what it does not let stand in its way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent.parent


def test_figures_are_drawn_whatever_backend_a_notebook_exports(tmp_path):
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / "images" / label / f"{number}.png")
    environment = {**os.environ, "MPLBACKEND": "module://a_backend.that_is_not_installed", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "contact-sheet", "--data", "images", "--out", "sheet.png"]
    completed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 100

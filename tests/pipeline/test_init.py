"""The public names, and what importing them does not do."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pipeline

SCRIPT = """
import json, logging, os, sys
environment = dict(os.environ)
import pipeline
quick = sorted({"torch", "sklearn", "h5py", "numpy", "cyclopts"} & sys.modules.keys())
import torch
threads = torch.get_num_threads(), torch.get_num_interop_threads()
random_state, dtype = torch.get_rng_state(), torch.get_default_dtype()
for name in pipeline.__all__:
    getattr(pipeline, name)
print(json.dumps({
    "imported by `import pipeline`": quick,
    "environment": dict(os.environ) == environment,
    "threads": threads == (torch.get_num_threads(), torch.get_num_interop_threads()),
    "random state": torch.equal(random_state, torch.get_rng_state()) and dtype == torch.get_default_dtype(),
    "log": logging.getLogger().handlers == [] and logging.getLogger("cutonce").handlers == [],
    "commands": sorted(name for name in sys.modules if name.startswith("pipeline.cli")),
}))
"""


def test_importing_changes_nothing_in_the_process_and_loads_nothing_of_the_commands():
    completed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(completed.stdout) == {
        "imported by `import pipeline`": [],
        "environment": True,
        "threads": True,
        "random state": True,
        "log": True,
        "commands": [],
    }
    assert completed.stderr == ""


def test_every_public_name_is_there_and_no_other():
    assert {name for name in pipeline.__all__ if getattr(pipeline, name).__name__ != name} == set()
    assert {name for name in dir(pipeline) if not name.startswith("__")} == set(pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'extract'"):
        _ = pipeline.extract


def test_python_names_the_nearest_of_a_misspelled_name():
    completed = subprocess.run(
        [sys.executable, "-c", "import pipeline; pipeline.TransferClasifier"], capture_output=True, text=True
    )
    assert completed.stderr.rstrip().endswith("Did you mean: 'TransferClassifier'?")


@pytest.mark.parametrize("room", ["cache", "stages", "pipeline"])
def test_type_checkers_of_others_are_told_that_types_are_there(room):
    """Without the file (PEP 561) mypy takes every public name for Any, and under --strict refuses the import."""
    folder = Path(import_module(room).__file__).parent
    assert (folder / "py.typed").is_file()
    listed = (folder.parent / "pyproject.toml").read_text(encoding="utf-8").split("[tool.setuptools.package-data]")[1]
    assert re.search(rf'^{room} = \[.*"py.typed"', listed, re.MULTILINE)  # and wheels have it

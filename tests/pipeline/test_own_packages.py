"""Whatever the working folder or PYTHONPATH holds, a command is ours from its first module to its last."""

import os
import subprocess
import sys

import pytest

from pipeline.own_packages import ROOT

LISTING = ["-m", "pipeline", "cache", "list", "--cache", "cache"]


def run_python(arguments, folder, paths=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def crowded(tmp_path):
    """A working folder as people have it: caches, stages of an experiment, and scripts named after what they do."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "cache").mkdir()
    for name in ("data.py", "stages.py", "cache.py", "tasks.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of the user ran')\n")
    return tmp_path


def test_folders_and_files_of_the_working_folder_stand_in_for_none_of_our_packages(crowded):
    completed = run_python(LISTING, crowded)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_a_module_of_the_working_folder_is_still_found(tmp_path):
    (tmp_path / "my_module.py").write_text("HERE = True\n")
    program = "import runpy, sys; sys.argv = ['pipeline', '--version']\n"
    program += "try: runpy.run_module('pipeline', run_name='__main__')\nexcept SystemExit: pass\nimport my_module"
    assert run_python(["-c", program], tmp_path).returncode == 0


@pytest.mark.parametrize("as_library", [False, True])
@pytest.mark.parametrize("name", ["cache", "stages"])
def test_a_foreign_package_before_ours_is_named(tmp_path, name, as_library):
    (tmp_path / f"{name}.py").write_text("")
    arguments = ["-c", "import pipeline; pipeline.features"] if as_library else ["-m", "pipeline", "--version"]
    completed = run_python(arguments, ROOT.parent, [tmp_path])
    assert completed.returncode == 1
    assert (
        f"package '{name}' lies in {ROOT}, but Python finds {tmp_path / f'{name}.py'} in its place" in completed.stderr
    )
    assert as_library or "Traceback" not in completed.stderr


def test_the_installed_command_names_a_foreign_package_of_the_name_of_its_own(tmp_path):
    start = [
        "-c",
        "import sys; sys.argv = ['cutonce', '--version']; from cutonce_command import main; sys.exit(main())",
    ]
    own = run_python(start, ROOT.parent)
    assert (own.returncode, own.stderr) == (0, "")
    (tmp_path / "pipeline.py").write_text("")
    foreign = run_python(start, ROOT.parent, [tmp_path])
    assert foreign.returncode == 1
    assert f"lies in {ROOT}, but Python finds {tmp_path / 'pipeline.py'} in its place" in foreign.stderr
    assert "Traceback" not in foreign.stderr

"""docs/extending.md: its examples about backbones and sources work as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = "import sys; from pipeline.cli.app import main; sys.exit(main(sys.argv[1:]))"


def section(title):
    """The blocks of code of one section: pairs of language and text."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return BLOCK.findall(found)


def run(folder, *arguments):
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(folder, text):
    """Write the metadata that pip would make of the entry points in a pyproject.toml."""
    for group, entries in tomllib.loads(text)["project"]["entry-points"].items():
        metadata = folder / f"{group.replace('.', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {group}\nVersion: 1.0\n")
        lines = [f"{name} = {module}" for name, module in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("A backbone", ["nets:small: ", "flat:flat8: ", "features.2"]),
        ("A source", ["256 images"]),
    ],
)
def test_examples_work_as_they_stand(title, told, tmp_path):
    said = ""
    for language, text in section(title):
        if language == "toml":
            install(tmp_path, text)
        elif language == "sh":
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "cutonce"
                said += run(tmp_path, RUN, *arguments)
        elif name := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / name[1]).write_text(text)
        else:
            said += run(tmp_path, text)
    assert all(words in said for words in told), said


def test_a_source_of_another_package_is_in_help_and_errors(tmp_path):
    for language, text in section("A source"):
        if language == "python":
            (tmp_path / "shade_source.py").write_text(text)
        elif language == "toml":
            install(tmp_path, text)
    said = " ".join(run(tmp_path, RUN, "extract", "--help").replace("│", " ").split())
    assert "or shades (of the package cutonce.sources)" in said
    error = run(
        tmp_path,
        "from stages.config.data import DataConfig\n"
        "from stages.data.sources.registry import list_samples\n"
        "try:\n    list_samples(DataConfig('shadse'))\nexcept ValueError as error:\n    print(error)",
    )
    assert re.search(r"no source of that name \(.*shades.*\)\. Did you mean 'shades'", error)

"""``--open``: the browser that the system names gets the page, and only when it was asked for."""

import ast
import inspect
import sys
import webbrowser

import pytest

from pipeline.cli import command_function
from pipeline.cli.app import main
from tests.pipeline.report.pages import three_methods


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """What a browser, a program of its own that is named by BROWSER, was told to open; nothing while it was not."""
    told = tmp_path / "told"
    program = tmp_path / "browser"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\npathlib.Path({str(told)!r}).write_text(sys.argv[1])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # which is read once a process
    return lambda: told.read_text() if told.exists() else None


@pytest.fixture
def run(tmp_path):
    folder = three_methods(tmp_path / "my run")
    (folder / "environment.json").write_text("{}")
    return folder


def test_the_page_is_opened_where_that_is_asked_for(run, opened, tmp_path):
    assert main(["compare", str(run)]) == 0
    assert opened() is None
    assert main(["compare", str(run), "--out", str(tmp_path / "out"), "--open"]) == 0
    assert opened() == (tmp_path / "out" / "report.html").as_uri()


def test_where_there_is_no_browser_the_page_is_named(run, monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "_tryorder", [])
    assert main(["compare", str(run), "--open"]) == 0
    assert f"no browser could be started (the variable BROWSER names one): the page is {run / 'report.html'}" in (
        capsys.readouterr().out
    )


def test_a_probe_that_writes_no_page_has_none_to_open(capsys):
    assert main(["probe-layers", "--data", "nowhere/", "--open"]) == 2
    assert "--open opens the page that is written to --out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "best", "compare", "ensemble", "evaluate", "inspect", "probe-layers"])
def test_every_command_that_writes_a_page_opens_it_last(command):
    function = command_function(command)
    assert "open_page" in inspect.signature(function).parameters
    body = ast.parse(inspect.getsource(function)).body[0].body
    asked = [
        node
        for node in ast.walk(ast.Module(body, []))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "open_page"
    ]
    assert [ast.unparse(node.body[0].value.func) for node in asked] == ["open_in_browser"]

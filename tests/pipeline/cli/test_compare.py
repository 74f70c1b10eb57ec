"""Where a comparison goes."""

import pytest

from pipeline.cli.app import main
from tests.pipeline.report.pages import three_methods


@pytest.fixture
def runs(tmp_path):
    runs = [three_methods(tmp_path / name) for name in "ab"]
    for run in runs:
        (run / "environment.json").write_text("{}")
    return runs


def test_the_page_of_several_runs_leaves_those_of_each_as_they_are(runs, tmp_path, capsys):
    assert main(["compare", str(runs[0])]) == 0
    page = (runs[0] / "report.html").read_bytes()
    capsys.readouterr()
    assert main(["compare", *map(str, runs)]) == 0
    assert f"report: {tmp_path / 'a+b' / 'report.html'}" in capsys.readouterr().out
    assert (runs[0] / "report.html").read_bytes() == page
    assert not (runs[1] / "report.html").exists()
    assert (tmp_path / "a+b" / "results.json").exists()

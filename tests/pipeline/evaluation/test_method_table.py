import csv
import subprocess
import sys

import pytest

from cache.errors import UsageError
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.method_table import as_frame, method_rows, write_table_csv
from pipeline.evaluation.results import Result
from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import three_methods


def test_the_frame_of_a_comparison_has_its_numbers_and_the_best_first(tmp_path):
    comparison = compare_runs([three_methods(tmp_path)])
    frame = comparison.to_frame()
    assert list(frame["method"]) == [row.label for row in comparison.ranked]
    assert list(frame["test_accuracy"]) == [row.score for row in comparison.ranked]
    assert list(frame["method"][frame["chosen"]]) == [comparison.choice.chosen.label]
    other = comparison.tests[0]
    told = frame.set_index("method").loc[other.method]
    assert (told["difference"], told["p_holm"]) == (other.difference, other.p_holm)
    assert frame.set_index("method").loc[comparison.reference.label, ["difference", "p"]].isna().all()


def test_the_csv_file_holds_the_same(tmp_path):
    comparison = compare_runs([three_methods(tmp_path / "run")])
    with write_table_csv(tmp_path, comparison).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    told = [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in method_rows(comparison)
    ]
    assert lines == told
    assert len(lines) == 3


def test_a_notebook_shows_verdict_and_methods_and_names_stay_text(tmp_path):
    for name in ("<script>x", "ridge"):
        add(tmp_path / "<b>run", predictions([0, 1] * 10, [1] + [0] * 19), name=name.replace("/", ""))
    shown = compare_runs([tmp_path / "<b>run"])._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;x" in shown
    assert "95.0 %" in shown
    assert shown.count("<tr>") == 3
    assert "<caption>Take " in shown


def test_a_result_shows_itself_too(tmp_path):
    result = Result.load(add(tmp_path, predictions([0, 1] * 10, [1] + [0] * 19), seed=3))
    assert "logistic" in result._repr_html_()
    assert "95.0 %" in result._repr_html_()
    frame = result.to_frame()
    assert frame[["method", "name", "seed", "test_accuracy"]].to_numpy().tolist() == [["linear", "logistic", 3, 0.95]]


def test_where_there_is_no_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        as_frame([{"method": "ridge"}])


def test_comparing_does_not_load_pandas():
    script = "import sys, pipeline.evaluation.comparison; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

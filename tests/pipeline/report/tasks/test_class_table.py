from scipy.stats import binomtest

import pipeline.report.tasks.class_table as class_table
from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import report

LABELS, WRONG = [0] * 30 + [1] * 10, [False] * 27 + [True] * 3 + [True] * 4 + [False] * 6


def test_each_class_has_its_support_recall_precision_and_f1_with_intervals(tmp_path):
    add(tmp_path, predictions(LABELS, WRONG))
    words = report(tmp_path).words
    interval = binomtest(27, 30).proportion_ci(method="wilson")
    ends = f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"
    assert f"class 0 30 31 90.0 %{ends} 87.1 %" in words.replace("\N{NO-BREAK SPACE}", " ")
    assert "class 1 10 9 60.0 %" in words


def test_of_many_classes_the_worst_are_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(class_table, "MOST_CLASSES", 1)
    add(tmp_path, predictions(LABELS, WRONG))
    words = report(tmp_path).words
    assert "Of 2 classes the 1 with the lowest F1" in words
    assert "class 1 10 9 60.0 %" in words
    assert "class 0 30 31" not in words

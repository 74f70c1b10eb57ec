import numpy as np
import pytest

from pipeline.report.tasks.confusion import named_heat_map
from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import report, three_methods


@pytest.mark.parametrize("classes", [2, 12, 13, 100])
def test_any_number_of_classes_has_its_confusions(tmp_path, classes):
    page = report(three_methods(tmp_path, classes=classes, tests=20 * classes), drawn="confusion")
    few = classes <= 12
    assert sum("confusion" in table.get("class", "") for table in page.all("table")) == (3 if few else 0)
    assert len(page.all("image")) == (classes > 80)
    assert sum(element.get("class") == "cells" for element in page.all("svg")) == (12 < classes <= 80)
    assert ("Confused most often" in page.words) == (not few)
    if few:
        headers = [element for element in page.all("th") if element.get("scope") == "row"]
        assert len(headers) >= 3 * classes
    assert (tmp_path / "report.html").stat().st_size < 400_000


def test_confused_pairs_are_the_most_frequent(tmp_path):
    labels = np.repeat(np.arange(20), 5)
    add(tmp_path, predictions(labels, (labels == 3) | (np.arange(100) == 50), classes=20))
    page_text = report(tmp_path).words
    assert "true taken for times of class 3 class 4 5 5 class 10 class 11 1 5 " in page_text


def test_others_are_shown_by_what_they_do_otherwise(tmp_path):
    labels = np.repeat(np.arange(2), 10)
    add(tmp_path, predictions(labels, np.arange(20) < 1), name="svm", val=0.9)
    add(tmp_path, predictions(labels, np.arange(20) < 4), name="ridge", val=0.8)
    words = report(tmp_path).words
    assert "ridge class 0 class 1 class 0 −3 +3 class 1 0 0" in " ".join(words.split())


def test_a_heat_map_names_all_classes_and_counts_each_cell():
    confusion = np.diag([4] * 60)
    confusion[3, 7] = 2
    svg = named_heat_map(confusion, [f"<b>{number}" for number in range(60)])
    assert svg.count("<text") == 120
    assert "<title>&lt;b&gt;3 taken for &lt;b&gt;7: 2 of 6</title>" in svg
    assert svg.count("<title>") == 61

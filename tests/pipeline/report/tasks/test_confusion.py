import numpy as np
import pytest

from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import report, three_methods


@pytest.mark.parametrize("classes", [2, 12, 13, 100])
def test_any_number_of_classes_has_its_confusions(tmp_path, classes):
    page = report(three_methods(tmp_path, classes=classes, tests=20 * classes), drawn="confusion")
    few = classes <= 12
    assert sum("confusion" in table.get("class", "") for table in page.all("table")) == (3 if few else 0)
    assert len(page.all("image")) == (0 if few else 3)
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

import numpy as np
import pytest

from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import report


@pytest.mark.parametrize("sure", [0.95, 0.75])
def test_the_page_says_how_sure_predictions_are_and_how_often_right(tmp_path, sure):
    made = predictions([0] * 200, np.arange(200) < 50)
    predicted = made.statistics["probabilities"].argmax(axis=1)
    made.statistics["probabilities"] = 1 - sure
    made.statistics["probabilities"][np.arange(200), predicted] = sure
    add(tmp_path, made)
    page = report(tmp_path)
    words = page.words.replace("\N{NO-BREAK SPACE}", " ")
    assert f"logistic is {100 * sure:.1f} % sure on average, and right in 75.0 %" in words
    assert ("1 of 1 lies outside" in words) == (sure == 0.95)
    assert "Brier score is the mean squared error" in words
    assert (tmp_path / "figures" / "reliability.png").exists()


def test_what_a_temperature_would_do_is_said_where_there_are_held_out_predictions(tmp_path):
    made, held_out = (predictions([0] * 200, np.arange(200) < wrong, confidence=0.99) for wrong in (50, 40))
    add(tmp_path, made, validation=held_out)
    words = report(tmp_path).words.replace("\N{NO-BREAK SPACE}", " ")
    assert "Divided by 3.3" in words  # ln(0.99 / 0.01) / ln(160 / 40) = 3.31
    assert "log loss 0.570 in place of 1.159" in words
    add(tmp_path / "before", made)
    assert "Divided by" not in report(tmp_path / "before").words


def test_a_temperature_of_images_without_an_error_is_said_in_three_digits(tmp_path):
    right = predictions([0] * 40, np.arange(40) < 0, confidence=0.6)  # the surer the better, without an end
    add(tmp_path, predictions([0] * 40, np.arange(40) < 4), validation=right)
    assert "Divided by 0.109, " in report(tmp_path).words  # ln(0.6 / 0.4) / ln(p / (1 - p)) of -ln p = 1 / 42

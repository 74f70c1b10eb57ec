import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.comparison import compare
from pipeline.report import figures
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, predictions


@pytest.fixture
def row(tmp_path):
    add(tmp_path, predictions([0, 1] * 10, [0] * 18 + [1] * 2), history=HISTORY, selection=SELECTION)
    return compare([tmp_path]).rows[0]


def test_kept_epoch_is_the_most_accurate_and_of_equals_the_one_of_lowest_loss():
    assert figures.best_epoch(HISTORY)["epoch"] == 2
    assert figures.best_epoch([]) is None
    assert figures.best_epoch([{"epoch": 1, "val_accuracy": None, "val_loss": None}]) is None


def test_selection_is_a_line_for_each_scaler_over_c():
    found = figures.tried(SELECTION)
    assert found.setting == "C"
    assert list(found.lines) == ["scaler none", "scaler standard"]
    at, scores = found.lines["scaler standard"]
    assert at == [1e-4, 1e-2, 1.0]
    assert scores == pytest.approx([0.80, 0.81, 0.82])


@pytest.mark.parametrize(
    "selection",
    [
        [],
        [{"scaler": "none", "score": 0.8}],
        [{"C": 1.0, "score": None}],
        [{"C": 0.0, "score": 0.5}, {"C": 1.0, "score": 0.6}],
    ],
)
def test_selection_without_a_setting_to_draw_over_has_no_lines(selection):
    assert figures.tried(selection) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.1))
def test_names_keep_apart_and_in_order(heights, least):
    moved = figures._apart(heights, least)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(moved[order]) >= least - 1e-9).all()
    if len(heights) == 1 or np.diff(np.sort(heights)).min() >= least:
        assert moved == pytest.approx(heights)


def test_heat_map_shares_cells_only_among_very_many_classes():
    assert [figures.classes_per_cell(classes) for classes in (2, 100, 200, 201, 1000)] == [1, 1, 1, 2, 5]


def test_a_single_confusion_among_a_thousand_classes_stays_in_sight():
    confusion = np.eye(1000, dtype=np.int64)
    confusion[10, 10], confusion[10, 700] = 0, 1
    image = figures.confusion_heat_map(confusion, [str(one) for one in range(1000)]).axes[0].images[0].get_array()
    assert image.shape == (200, 200)
    assert image[10 // 5, 700 // 5] == 1.0


def test_png_and_svg_are_made_of_every_figure(row, tmp_path):
    for number, figure in enumerate(
        [
            figures.accuracy_against_time([row]),
            figures.learning_curve(row, "loss"),
            figures.learning_curve(row, "accuracy"),
            figures.selection_scores(row),
            figures.confusion_heat_map(row.confusion, ["a", "b"]),
        ]
    ):
        figures.save_png(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert min(image.size) > 300
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        svg = figures.inline_svg(figure)
        assert svg.startswith("<svg viewBox=")
        assert "<text" in svg


def test_svg_takes_its_colours_and_type_from_the_page(row):
    svg = figures.inline_svg(figures.accuracy_against_time([row]))
    assert "var(--series-0)" in svg
    assert "var(--muted)" in svg
    assert not re.search(r"(fill|stroke): #", svg)
    assert "DejaVu" not in svg
    assert "://" not in svg


def test_the_same_figure_is_drawn_the_same_every_time(row):
    first, second = (figures.inline_svg(figures.learning_curve(row, "loss")) for _ in range(2))
    assert first == second

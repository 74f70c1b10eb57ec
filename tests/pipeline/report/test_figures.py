import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import evaluate_test
from pipeline.report import figures
from stages.config.heads import HeadConfig
from stages.fitting.fit_head import train_head
from stages.tasks.base import find_metric
from stages.tasks.single_label import SingleLabel
from stages.training.lr_finder import LRFinderResult
from stages.training.lr_schedules import LRScheduleConfig, lr_trace
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, predictions
from tests.stages.fitting.rows_of_digits import digits, fit_problem

ACCURACY = find_metric(SingleLabel("ab"))


@pytest.fixture
def row(tmp_path):
    add(tmp_path, predictions([0, 1] * 10, [0] * 18 + [1] * 2), history=HISTORY, selection=SELECTION)
    return compare_runs([tmp_path]).rows[0]


def test_kept_epoch_is_the_most_accurate_and_of_equals_the_one_of_lowest_loss():
    assert figures.best_epoch(HISTORY, ACCURACY)["epoch"] == 2
    assert figures.best_epoch([], ACCURACY) is None
    losses = [{"epoch": epoch, "val_log_loss": loss, "val_loss": loss} for epoch, loss in enumerate((0.7, 0.4, 0.5))]
    assert figures.best_epoch(losses, find_metric(SingleLabel("ab"), "log_loss"))["epoch"] == 1
    assert figures.best_epoch([{"epoch": 1, "val_accuracy": None, "val_loss": None}], ACCURACY) is None
    by_a_rule_of_its_own = SimpleNamespace(history=HISTORY, settings={"best epoch": 3})
    assert figures.kept_epoch(by_a_rule_of_its_own, ACCURACY)["epoch"] == 3
    assert figures.kept_epoch(SimpleNamespace(history=HISTORY, settings={}), ACCURACY)["epoch"] == 2


def test_what_was_tried_is_drawn_as_the_metric_that_it_is_where_lower_is_better(tmp_path):
    made = predictions([0, 1] * 10, [0] * 18 + [1] * 2)
    task = made.task.with_primary("log_loss")
    tried = [{"C": c, "score": -loss} for c, loss in ((0.1, 0.9), (1.0, 0.4))]
    test = evaluate_test(task, made.statistics, 0)
    add(tmp_path, made, task=task, val={"log_loss": 0.4}, test=test, selection=tried, settings={"C": 1.0})
    axes = figures.selection_scores(compare_runs([tmp_path]).rows[0]).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines[:1]] == [[0.9, 0.4]]
    assert axes.get_title(loc="left") == "log loss"


def test_selection_is_a_line_for_each_scaler_over_c():
    curves = figures.search_curves(SELECTION)
    assert curves.setting == "C"
    assert [line.label for line in curves.lines] == ["scaler none", "scaler standard"]
    assert curves.lines[1].at == [1e-4, 1e-2, 1.0]
    assert curves.lines[1].scores == pytest.approx([0.80, 0.81, 0.82])


def test_what_was_tried_on_a_part_of_the_rows_is_a_line_of_its_own():
    on_part = [{**candidate, "rows": 5000, "score": 0.9} for candidate in SELECTION]
    curves = figures.search_curves([*on_part, *SELECTION])
    assert [(line.label, line.on_part) for line in curves.lines] == [
        *(("scaler none", False), ("scaler standard", False)),
        *(("scaler none, 5,000 rows", True), ("scaler standard, 5,000 rows", True)),
    ]


@pytest.mark.parametrize("values", [["none", "standard"], [0.0, 0.1]])
def test_a_setting_that_is_no_positive_number_is_drawn_by_name(values):
    curves = figures.search_curves([{"one": value, "score": 0.5} for value in values])
    assert curves.names == list(map(str, values))
    assert curves.lines[0].at == [0.0, 1.0]


@pytest.mark.parametrize("selection", [[], [{"scaler": "none", "score": 0.8}], [{"C": 1.0, "score": None}]])
def test_selection_without_a_choice_has_no_lines(selection):
    assert figures.search_curves(selection) is None


@pytest.mark.parametrize("name", ["logistic", "svm", "ridge", "rbf", "ncm", "knn", "sgd", "linear"])
def test_the_choice_of_every_head_that_selects_is_marked(name, tmp_path):
    """The real heads: what they say they chose is among what they say they tried, and has the best score of it."""
    options = HeadConfig(c_values=(1e-3, 1e-1), fit_lr=(1e-3, 1e-2), fit_epochs=3, n_neighbors=(1, 5))
    trained = train_head(name, fit_problem(*digits(3)[:2], classes=3, options=options))
    add(tmp_path, predictions([0, 1], [0, 0]), selection=trained.selection, settings=trained.settings)
    row = compare_runs([tmp_path]).rows[0]
    choice = figures.chosen(row.results[0])
    assert choice["score"] == max(candidate["score"] for candidate in trained.selection)
    axes = figures.selection_scores(row).axes[0]
    rings = [line for line in axes.lines if line.get_markersize() == 9]
    assert [ring.get_ydata() for ring in rings] == [[choice["score"]]]
    drawn = [score for line in axes.lines if line not in rings for score in line.get_ydata()]
    assert sorted(drawn) == sorted(candidate["score"] for candidate in trained.selection)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.1))
def test_names_keep_apart_and_in_order(heights, least):
    moved = figures._repel_labels(heights, least)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(moved[order]) >= least - 1e-9).all()
    if len(heights) == 1 or np.diff(np.sort(heights)).min() >= least:
        assert moved == pytest.approx(heights)


@pytest.fixture
def trained(tmp_path):
    """A cached head, and three methods that train on images, by their numbers in the table."""
    made = predictions([0, 1] * 10, [0] * 18 + [1] * 2)
    add(tmp_path, made, val=0.77)
    for method, seconds in (("finetune", 8.0), ("uncached", 20.0), ("scratch", 400.0)):
        own = [{**entry, "seconds": seconds * (entry["epoch"] > 0)} for entry in HISTORY]
        stages = {"extract": 30.0, "train": 2.0 + 3 * seconds, "evaluate": 5.0}
        add(tmp_path, made, method=method, name="all", history=own, seconds_by_stage=stages)
    rows = compare_runs([tmp_path]).rows
    return rows[0], dict(enumerate(rows[1:], start=1))


def test_time_begins_at_the_images_and_ends_before_testing(trained):
    _, rows = trained
    assert figures.cumulative_seconds(rows[1].results[0]) == [32, 40, 48, 56]
    assert figures.cumulative_seconds(rows[3].results[0]) == [32, 432, 832, 1232]


@pytest.mark.parametrize("over", ["epoch", "time"])
def test_methods_are_side_by_side_in_the_colors_of_the_table(trained, over):
    level, rows = trained
    axes = figures.validation_curves(rows, level, over).axes[0]
    for number, row in rows.items():
        line = next(line for line in axes.lines if line.get_color() == figures.SERIES[number])
        assert list(line.get_ydata()) == [0.7, 0.8, 0.85, 0.85]
        at = figures.cumulative_seconds(row.results[0])
        assert list(line.get_xdata()) == ([0, 1, 2, 3] if over == "epoch" else at)
    rings = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 8]
    assert rings == ([2, 2, 2] if over == "epoch" else [48, 72, 832])
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [0.77]
    assert {text.get_text() for text in axes.texts} == {
        "logistic",
        "fine-tune all",
        "frozen network all",
        "scratch all",
    }
    assert axes.get_xlabel() == ("epoch" if over == "epoch" else "time from the images on (logarithmic)")


def test_an_epoch_that_took_no_time_is_not_drawn_over_it(tmp_path):
    stages = {"train": 3.0, "evaluate": 1.0}
    own = [{**entry, "seconds": float(entry["epoch"] > 0)} for entry in HISTORY]
    add(tmp_path, predictions([0, 1], [0, 1]), method="scratch", name="all", history=own, seconds_by_stage=stages)
    figure = figures.validation_curves({0: compare_runs([tmp_path]).rows[0]}, None, "time")
    assert list(figure.axes[0].lines[0].get_xdata())[1:] == [1, 2, 3]
    assert figure.axes[0].get_xlim()[0] > 0.5
    figures.inline_svg(figure)


def test_heat_map_shares_cells_only_among_very_many_classes():
    assert [figures.classes_per_cell(classes) for classes in (2, 100, 200, 201, 1000)] == [1, 1, 1, 2, 5]


def test_a_single_confusion_among_a_thousand_classes_stays_in_sight():
    confusion = np.eye(1000, dtype=np.int64)
    confusion[10, 10], confusion[10, 700] = 0, 1
    image = figures.confusion_heat_map(confusion, [str(number) for number in range(1000)]).axes[0].images[0].get_array()
    assert image.shape == (200, 200)
    assert image[10 // 5, 700 // 5] == 1.0


SCHEDULE = lr_trace(LRScheduleConfig("cosine"), [1e-3, 1e-3, 5e-4], 10, 4)
FOUND = LRFinderResult(
    rates=np.geomspace(1e-6, 1, 30),
    losses=np.r_[np.linspace(2, 1, 28), 3, 9],
    smoothed=np.r_[np.linspace(2, 1, 28), 2, 5],
    suggestion=float(np.geomspace(1e-6, 1, 30)[12]),
)


def test_rates_are_a_line_for_each_block_named_in_its_color_beside_its_peak():
    axes = figures.rate_schedule(SCHEDULE, ["head", "head", "layer4"], 10).axes[0]
    assert [line.get_ydata().max() for line in axes.lines] == pytest.approx([1e-3, 5e-4])
    assert axes.lines[0].get_xdata()[[0, -1]] == pytest.approx([0, 3.9])
    assert [text.get_text() for text in axes.texts] == ["head", "layer4"]
    for line, text in zip(axes.lines, axes.texts, strict=True):
        assert line.get_color() == text.get_color()
        assert text.xy[1] == pytest.approx(line.get_ydata().max() / axes.get_ylim()[1])
    assert not figures.rate_schedule(SCHEDULE[:, :1], ["head"], 10).axes[0].texts


def test_where_a_block_was_frozen_it_has_no_rate_and_one_that_never_trained_no_line():
    rates = SCHEDULE.copy()
    rates[:20, 1] = np.nan
    rates[:, 2] = np.nan
    axes = figures.rate_schedule(rates, ["head", "layer4", "layer3"], 10).axes[0]
    assert [text.get_text() for text in axes.texts] == ["head", "layer4"]
    assert np.isnan(axes.lines[1].get_ydata()).tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("highest", [[1e-4, 0.0], [0.0, 1e-4, 1e-6], [0.0, 0.0]])
@pytest.mark.filterwarnings("error")
def test_a_rate_of_zero_is_drawn_as_zero(tmp_path, highest):
    rates = lr_trace(LRScheduleConfig("cosine"), highest, 10, 4)
    figure = figures.rate_schedule(rates, [f"block {number}" for number in range(len(highest))], 10)
    figures.save_plot(figure, tmp_path / "rates.png")
    assert figure.axes[0].get_yscale() == "linear"


def test_rates_far_apart_share_a_logarithmic_axis_on_which_all_can_be_read():
    scales = []
    for factor in (0.5, 0.01):
        rates = lr_trace(LRScheduleConfig("onecycle"), [1e-2, 1e-2 * factor, 1e-2 * factor**2], 10, 4)
        axes = figures.rate_schedule(rates, ["head", "top", "rest"], 10).axes[0]
        scales.append(axes.get_yscale())
        bottom, top = axes.get_ylim()
        assert all(bottom < line.get_ydata().max() < top for line in axes.lines)
    assert scales == ["linear", "log"]


def test_the_suggested_rate_is_marked_on_the_mean_and_divergence_does_not_take_the_height():
    axes = figures.range_test_curves([FOUND]).axes[0]
    assert axes.get_xscale() == "log"
    mark = axes.lines[2]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx((FOUND.suggestion, FOUND.smoothed[12]))
    assert axes.texts[0].get_text() == f"suggested {FOUND.suggestion:.2g}"
    assert 2 < axes.get_ylim()[1] < 3
    figure = figures.range_test_curves([FOUND, replace(FOUND, suggestion=None, block="layer4")])
    assert len(figure.axes) == 2
    without = figure.axes[1]
    assert len(without.lines) == 2
    assert without.get_xlabel() == "learning rate of layer4"


def test_png_and_svg_are_made_of_every_figure_which_is_laid_out_once_for_both(row, tmp_path, monkeypatch):
    execute, laid_out = ConstrainedLayoutEngine.execute, []
    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", lambda self, figure: laid_out.append(figure) or execute(self, figure)
    )
    for number, figure in enumerate(
        [
            figures.score_against_time([row]),
            figures.learning_curve(row, "loss"),
            figures.learning_curve(row, "accuracy"),
            figures.validation_curves({0: row}, row, "time"),
            figures.selection_scores(row),
            figures.confusion_heat_map(row.confusion, ["a", "b"]),
            figures.rate_schedule(SCHEDULE, ["head", "head", "layer4"], 10),
            figures.range_test_curves([FOUND, FOUND, FOUND, FOUND]),
        ]
    ):
        figures.save_png(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert min(image.size) > 300
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        svg = figures.inline_svg(figure)
        assert svg.startswith("<svg viewBox=")
        assert "<text" in svg
    assert len(laid_out) == len(set(laid_out)) == number + 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [("h\udcfctte\x1b", "h\\udcfctte\\x1b"), ("猫" * 12, "猫" * 12), ("猫" * 13, "猫" * 11 + "…"), ("कुत्ता", "कुत्ता")],
)
def test_any_name_is_drawn_as_text_and_has_the_room_it_takes(tmp_path, name, shown):
    figure = figures.confusion_heat_map(np.eye(2, dtype=np.int64), [name, "b"])
    assert f">{shown}</text>" in figures.inline_svg(figure)
    figures.save_png(figure, tmp_path / "figure.png")


def test_svg_takes_its_colors_and_type_from_the_page(row):
    svg = figures.inline_svg(figures.score_against_time([row]))
    assert "var(--series-0)" in svg
    assert "var(--muted)" in svg
    assert not re.search(r"(fill|stroke): #", svg)
    assert "DejaVu" not in svg
    assert "://" not in svg


def test_the_same_figure_is_drawn_the_same_every_time(row):
    first, second = (figures.inline_svg(figures.learning_curve(row, "loss")) for _ in range(2))
    assert first == second


def test_a_plot_is_saved_on_white_and_as_a_drawing_with_the_colors_of_both_schemes(tmp_path):
    rates = np.geomspace(1e-6, 1e-1, 30)
    test = LRFinderResult(rates, 1 / (1 + 90 * rates), 1 / (1 + 90 * rates), 1e-2)
    figures.save_plot(figures.range_test_curves([test]), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text(encoding="utf-8"))
    style = root.find("{http://www.w3.org/2000/svg}style").text
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", ElementTree.tostring(root, encoding="unicode")))
    assert {"--ink", "--muted", "--accent"} <= used
    assert all(f"{name}:" in light for name in used)
    assert all(f"{name}:" in dark for name in used - {"--font"})


@pytest.mark.parametrize(("low", "high"), [(2800, 5900), (0.004, 90_000), (61, 75), (0.2, 0.31), (3000, 30_000)])
def test_an_axis_of_times_has_several_ticks_in_any_range_and_no_two_alike(low, high):
    ticks = figures._time_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    names = [figures._short_duration(tick) for tick in ticks]
    assert len(set(names)) == len(names)

"""What a terminal shows of a comparison: on lines that fit, the best first, with what is taken marked."""

import pytest

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.console import format_tables, format_verdict
from pipeline.evaluation.one_line import one_line
from tests.pipeline.evaluation.test_comparison import add_method, wrong


@pytest.fixture
def comparison(tmp_path):
    add_method(tmp_path, wrong(0, 60), seconds=20, val=0.85)
    add_method(tmp_path, wrong(0, 50), method="head", name="rbf", seconds=25, val=0.9)
    add_method(tmp_path, wrong(40, 70), method="finetune", name="top-3", seconds=1220, backbone_forwards=12_345)
    return compare_runs([tmp_path])


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(comparison, width):
    verdict, tables = format_verdict(comparison, width), format_tables(comparison, width)
    assert max(map(len, f"{verdict}\n{tables}".splitlines())) <= width
    assert " ".join(verdict.split()).startswith(f"{one_line(comparison)}. - {comparison.verdict.headline}")
    bullets = [line for line in verdict.splitlines() if line.startswith("- ")]
    assert len(bullets) == 1 + len(comparison.verdict.details)
    for column in ("--method", "accuracy", "95 % interval", "features, s", "in all, s", "ms/image", "peak memory"):
        assert column in tables
    for figure in ("92.5 %", "0.925", "1,220.0", "1 GiB", "520 + 12,345"):
        assert figure in tables


def test_the_best_come_first_and_the_one_to_take_is_marked(comparison):
    lines = format_tables(comparison, 200).splitlines()
    best_first = [row.label for row in comparison.ranked]
    assert best_first != [row.label for row in comparison.rows]
    for start in (number for number, line in enumerate(lines) if line.startswith("----")):
        shown = lines[start + 1 : start + 1 + len(best_first)]
        assert [line[2:].partition("  ")[0].strip() for line in shown] == best_first
        (taken,) = (line for line in shown if line.startswith("* "))
        assert taken.startswith(f"* {comparison.verdict.chosen.label} ")
    shown = lines[2 : 2 + len(best_first)]
    assert "head-rbf" in next(line for line in shown if "RBF SVM" in line)  # what --method calls it


def test_of_one_method_nothing_is_marked_or_ranked(tmp_path):
    add_method(tmp_path, wrong(0, 60), seconds=20)
    tables = format_tables(compare_runs([tmp_path]), 120)
    assert "*" not in tables
    assert "come first" not in tables

import math

import pytest

from pipeline.text import (
    byte_count,
    capitalized,
    flattened,
    format_difference,
    format_error,
    format_range,
    format_score,
    in_markdown,
    once_for_all_seeds,
    percent,
    short_percent,
    table,
    terminal_width,
    tick,
    wrapped,
)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"),
        (1000, "1,000 B"),
        (2560, "2.5 KiB"),
        (640 << 20, "640 MiB"),
        (1020 << 20, "1,020 MiB"),  # three digits would be 1.02e+03
        (1024 << 20, "1 GiB"),
        (5000 << 30, "5,000 GiB"),
    ],
)
def test_sizes_are_said_as_people_say_them(number, words):
    assert byte_count(number) == words


def test_scores_are_shares_or_numbers():
    assert (percent(0.879), percent(0.879, digits=0), short_percent(0.125), short_percent(0.5)) == (
        *("87.9 %", "88 %"),
        *("12.5 %", "50 %"),
    )
    assert (format_score(0.879, as_percent=True), format_score(0.879, as_percent=False)) == ("87.9 %", "0.879")
    assert format_score(math.nan, as_percent=True) == "-"
    assert (format_difference(0.025, as_percent=True), format_difference(-0.0001, as_percent=False)) == (
        *("+2.5", "+0.000"),
    )
    assert format_range((0.85, 0.901), as_percent=True) == "85.0 to 90.1"
    assert format_range((0.85, 0.901), " – ", as_percent=False) == "0.850 – 0.901"
    assert (format_error(0.015, as_percent=True), format_error(0.015, as_percent=False)) == ("1.5", "0.015")
    assert (tick(0.125, as_percent=True), tick(-0.5, as_percent=False)) == ("12.5 %", "-0.5")
    assert capitalized("mean F1") == "Mean F1"


def test_mappings_in_mappings_are_flattened_under_names_with_dots():
    nested = {"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}
    assert flattened(nested) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_notes_that_differ_in_their_seed_alone_are_told_once():
    notes = [
        "split made (seed 0)",
        "not readable: a (1).jpg",
        "split made (seed 1)",
        "split made (seed 10)",
        "other (seed 0)",
    ]
    assert once_for_all_seeds([*notes, "split made (seed 0)"]) == [
        "split made (seeds 0, 1 and 10)",
        "not readable: a (1).jpg",
        "other (seed 0)",
    ]


def test_words_are_one_line_without_markdown_or_html():
    assert in_markdown("a|b\n# <b> `x` *y*") == "a\\|b \\# \\<b\\> \\`x\\` \\*y\\*"


def test_words_are_wrapped_and_a_number_stays_with_its_percent():
    text = wrapped("of these methods the first reaches 74.0 % and the second, the large one, 73.5 %", 40, "- ")
    assert text.splitlines() == [
        "- of these methods the first reaches",
        "  74.0 % and the second, the large one,",
        "  73.5 %",
    ]


def test_columns_that_do_not_fit_stand_in_a_table_below_with_the_first_column_again():
    header, rows = ["method", "word", "first", "second"], [["a", "x", "1", "22"], ["longer name", "yy", "333", "4"]]
    whole = table(header, rows, 2)
    assert whole == table(header, rows, 2, 40)
    assert whole.splitlines()[0] == "method       word  first  second"
    assert table(header, rows, 2, 26).splitlines() == [
        "method       word  first",
        "-----------  ----  -----",
        "a            x         1",
        "longer name  yy      333",
        "",
        "method       second",
        "-----------  ------",
        "a                22",
        "longer name       4",
    ]
    assert [len(part.splitlines()) for part in table(header, rows, 2, 5).split("\n\n")] == [4, 4, 4]  # never none


def test_the_width_is_that_of_the_environment_or_one_for_files(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal_width() == 77

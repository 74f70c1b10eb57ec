"""What stands in masks, and what of it is taken for classes: the survey is made by hand, so that no file is needed."""

import pytest

from cache.errors import DataError, UsageError
from stages.data.masks.class_table import ClassTable
from stages.data.masks.find_classes import SurveyedMasks, find_classes
from stages.data.masks.stored import MaskFacts, packed

RED, GREEN, BLACK = packed(255, 0, 0), packed(0, 255, 0), 0
COLORS = ClassTable(("red", "green", "void"), colors=(RED, GREEN, BLACK), origin="classes.csv")


def surveyed(*counts, **further):
    facts = [
        MaskFacts((10, 10), held, **{"are_colors": False, "palette": {}, "is_lossy": False, **further})
        for held in counts
    ]
    return SurveyedMasks([f"masks/{number}.png" for number in range(len(facts))], facts)


def names(count):
    return ClassTable(tuple("abcdefghijklmnop"[:count]), origin="classes.txt")


def found(masks, table=None, ignored=()):
    """The names of the classes, and for each stored value its class."""
    classes, notes = find_classes(masks, table, ignored)
    return classes.names, dict(classes.numbers), " ".join(notes)


def test_numbers_from_0_on_are_classes_and_255_stands_for_none():
    held, numbers, notes = found(surveyed({0: 50, 1: 50}, {2: 90, 255: 10}))
    assert held == ("0", "1", "2")
    assert numbers == {0: 0, 1: 1, 2: 2, 255: 255}
    assert "5 % of the pixels are of no known class" in notes


def test_numbers_with_gaps_are_classes_in_their_order_which_is_said():
    held, numbers, notes = found(surveyed({7: 50, 26: 50}, {8: 100}))
    assert held == ("7", "8", "26")
    assert (numbers[7], numbers[8], numbers[26]) == (0, 1, 2)
    assert "7, 8, 26 are the classes" in notes


def test_masks_of_0_and_255_are_two_classes_and_not_one_and_void():
    held, numbers, notes = found(surveyed({0: 90, 255: 10}, {0: 100}))
    assert held == ("background", "foreground")
    assert numbers == {0: 0, 255: 1}
    assert "masks hold 0 and 255, which are two classes" in notes
    assert found(surveyed({0: 90, 255: 10}), names(2))[0] == ("a", "b")
    assert found(surveyed({0: 90, 1: 5, 255: 5}))[1] == {0: 0, 1: 1, 255: 255}


def test_names_in_a_mere_order_are_numbered_from_0_or_from_1_where_0_is_no_class():
    assert found(surveyed({0: 1, 1: 9}), names(2))[1] == {0: 0, 1: 1, 255: 255}
    assert found(surveyed({1: 1, 2: 9}), names(2))[1] == {1: 0, 2: 1, 255: 255}
    assert found(surveyed({0: 5, 1: 1, 2: 9}), names(2), ("0",))[1] == {0: 255, 1: 0, 2: 1, 255: 255}
    # a class of which no mask has a pixel is a class all the same
    assert found(surveyed({0: 1, 1: 9}), names(3))[0] == ("a", "b", "c")


def test_a_number_or_a_name_that_stands_for_no_class_is_taken_from_the_option():
    assert found(surveyed({0: 1, 1: 5, 11: 4}), None, ("11",))[1] == {0: 0, 1: 1, 11: 255, 255: 255}
    held, numbers, _ = found(surveyed({0: 1, 1: 5, 2: 4}), names(3), ("b",))
    assert held == ("a", "c")
    assert numbers == {0: 0, 1: 255, 2: 1, 255: 255}
    with pytest.raises(UsageError, match=r"`ignore_label` bb is neither a number nor a class\. Did you mean"):
        find_classes(surveyed({0: 1, 1: 9}), ClassTable(("aa", "bbb")), ("bb",))


def test_a_name_like_void_stands_for_no_class():
    held, numbers, notes = found(
        surveyed({0: 1, 1: 5, 2: 4}), ClassTable(("sky", "road", "Void"), origin="classes.txt")
    )
    assert held == ("sky", "road")
    assert numbers[2] == 255
    assert "Void stands for no class" in notes


def test_numbers_beyond_the_classes_are_refused_with_the_file_and_what_to_say():
    message = (
        r"classes\.txt names 2 classes, numbers them from 0 to 1, and masks hold 7, 9 besides, in 1 of 2 masks, the "
        r"first masks/1\.png\. .* `ignore_label` 7,9"
    )
    with pytest.raises(DataError, match=message):
        find_classes(surveyed({0: 1, 1: 9}, {0: 1, 7: 3, 9: 1}), names(2))
    with pytest.raises(DataError, match="names 2 classes, and masks hold 8 besides"):
        find_classes(surveyed({7: 1, 8: 9}), ClassTable(("road", "car"), values=(7, 26), origin="classes.csv"))


def test_colors_are_classes_by_the_table_in_its_order():
    held, numbers, notes = found(surveyed({GREEN: 60, BLACK: 40}, {RED: 100}, are_colors=True), COLORS)
    assert held == ("red", "green")
    assert numbers == {RED: 0, GREEN: 1, BLACK: 255}
    assert "void stands for no class" in notes


def test_colors_that_nobody_names_are_classes_called_by_their_colors_and_it_is_said_how_to_name_them():
    held, _, notes = found(surveyed({GREEN: 60, RED: 40}, are_colors=True))
    assert held == ("#00ff00", "#ff0000")
    assert "classes.csv with the columns name, r, g and b" in notes
    assert found(surveyed({GREEN: 60, RED: 20, BLACK: 20}, are_colors=True), None, ("#000000",))[0] == held


def test_palette_masks_go_by_their_colors_where_these_are_named_or_one_number_has_several():
    by_palette = surveyed({0: 1, 1: 2}, palette={0: RED, 1: GREEN})
    assert found(by_palette, COLORS)[0] == ("red", "green")
    assert found(by_palette)[0] == ("0", "1")
    turned = SurveyedMasks(
        ["a", "b"], [by_palette.facts[0], surveyed({0: 1, 1: 2}, palette={0: GREEN, 1: RED}).facts[0]]
    )
    held, numbers, notes = found(turned)
    assert held == ("#00ff00", "#ff0000")
    assert "read by their colors" in notes


def test_colors_that_the_table_does_not_name_are_refused_by_name():
    with pytest.raises(DataError, match=r"classes\.csv does not name: #0000ff \(30 % of pixels\), in 1 of 1 masks"):
        find_classes(surveyed({RED: 30, GREEN: 40, 0x0000FF: 30}, are_colors=True), COLORS)
    with pytest.raises(DataError, match=r"classes\.txt does not say which color is of which class: write classes\.csv"):
        find_classes(surveyed({RED: 30, GREEN: 40}, are_colors=True), names(2))


@pytest.mark.parametrize(
    ("masks", "table"),
    [
        (surveyed({0: 6000, 255: 3900} | dict.fromkeys(range(20, 240, 20), 8)), None),
        (
            surveyed(
                {RED: 6000, GREEN: 3900} | {packed(value, 255 - value, 0): 8 for value in range(20, 240, 20)},
                are_colors=True,
            ),
            COLORS,
        ),
        (surveyed({packed(value, 255 - value, 0): 8 for value in range(200)}, are_colors=True), None),
    ],
    ids=["greys", "colors between those of classes", "more colors than anybody names"],
)
def test_smoothed_edges_are_told_from_classes(masks, table):
    with pytest.raises(
        DataError, match=r"their edges are smoothed, .* \(1 of 1 masks.*Export them without anti-aliasing"
    ):
        find_classes(masks, table)


def test_many_classes_are_not_taken_for_smoothed_edges():
    rare = {0: 99_000} | dict.fromkeys(range(1, 101), 10) | {255: 5}
    assert len(found(surveyed(rare))[0]) == 101
    assert len(found(surveyed({0: 990, 50: 4, 100: 3, 150: 3}))[0]) == 4


def test_jpeg_masks_are_refused_with_how_many_values_they_were_smeared_to():
    with pytest.raises(DataError, match=r"saved as JPEG, which smears .* \(3 different values in the first\): 1 of 1"):
        find_classes(surveyed({0: 5, 1: 3, 254: 1}, is_lossy=True), None)


@pytest.mark.parametrize(
    ("held", "what"), [({3: 100}, "'3' alone"), ({255: 100}, "no class at all"), ({0: 50, 255: 0}, "")]
)
def test_one_class_only_is_refused(held, what):
    held = {value: count for value, count in held.items() if count}
    with pytest.raises(DataError, match=f"all 1 masks hold {what}.*at least two classes are needed"):
        find_classes(surveyed(held), None)

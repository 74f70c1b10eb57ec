"""Columns that are no inputs, and those that look odd."""

import numpy as np
import pytest

from cache.errors import DataError, UsageError
from stages.columns.checks import remarks, require_columns, require_no_target
from stages.columns.fit import ColumnChoice

OWN = ("path", "label", "split")
COUNT = 40
CLASSES = [("cat", "dog", "owl")[index % 3] for index in range(COUNT)]
PRICES = np.random.default_rng(0).permutation(np.arange(COUNT) * 137.5 + 20)


def require(cells, targets, parts=(), option="categories"):
    require_no_target(ColumnChoice(**{option: ("x",)}), {"x": cells}, targets, list(parts))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            ColumnChoice(("aera",)),
            r"`columns` aera: there is no such column; there are area, zone. Did you mean 'area'",
        ),
        (ColumnChoice(("area",), ("label",)), "`categories` label says what a sample is, or what is to be predicted"),
        (ColumnChoice(("area",), ("area",)), "area is given twice"),
        (ColumnChoice(("area",), log=("zone",)), "`log_columns` zone is not among `columns`"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(choice, message):
    with pytest.raises(UsageError, match=message):
        require_columns(choice, ["area", "zone"], OWN)


def test_the_target_is_found_by_itself_and_by_another_name():
    parts = [np.array([target == name for target in CLASSES]) for name in ("cat", "dog", "owl")]
    other_names = {"cat": "7", "dog": "3", "owl": ""}
    with pytest.raises(DataError, match="the column x is the target, or another name for it: where it says 'cat'"):
        require(CLASSES, CLASSES, parts)
    with pytest.raises(DataError, match="where it says '7' the target is 'cat'"):
        require([other_names[target] or "9" for target in CLASSES], CLASSES, parts, "numbers")
    with pytest.raises(DataError, match="is the target"):  # one class, against all others
        require([str(int(target == "dog")) for target in CLASSES], CLASSES, parts, "numbers")
    with pytest.raises(DataError, match="is the target"):  # with a few cells left empty
        require(["" if index < 5 else target for index, target in enumerate(CLASSES)], CLASSES, parts)


def test_a_number_in_another_unit_is_found_and_an_index_is_not():
    texts = [str(price) for price in PRICES]
    for other in (PRICES * 1.1, -np.log(PRICES)):
        with pytest.raises(DataError, match="is the target"):
            require([repr(value) for value in other.tolist()], texts, [PRICES], "numbers")
    require([str(index) for index in range(COUNT)], texts, [PRICES], "numbers")
    require([str(index) for index in range(COUNT)], CLASSES, [], "numbers")


def test_a_column_that_goes_along_with_the_target_is_an_input():
    require([*CLASSES[1:], CLASSES[0]], CLASSES)
    almost = ["cat", *CLASSES[1:-1], "cat" if CLASSES[-1] != "cat" else "dog"]
    require(almost, CLASSES)


def test_a_column_that_tells_the_target_is_remarked():
    rng = np.random.default_rng(2)
    outcome = ["bad" if chance > 0.5 else "good" for chance in rng.random(COUNT)]
    finer = [f"{word} {kind}" for word, kind in zip(outcome, rng.integers(2, size=COUNT), strict=True)]
    score = [f"{(word == 'bad') + value:.3f}" for word, value in zip(outcome, rng.random(COUNT), strict=True)]
    columns = {"finer": finer, "score": score, "index": [str(index) for index in range(COUNT)]}
    found = remarks(ColumnChoice(numbers=("score", "index"), categories=("finer",)), columns, outcome)
    assert [note.split()[2] for note in found] == ["score", "finer"]


def test_codes_among_the_numbers_are_remarked_and_counts_are_not():
    rng = np.random.default_rng(1)
    columns = {
        "zipcode": [str(code) for code in rng.choice([91901, 85255, 92276, 93510], COUNT)],
        "ward": [f"{ward:02d}" for ward in rng.integers(1, 30, COUNT)],
        "bedrooms": [str(count) for count in rng.integers(1, 8, COUNT)],
        "year": [str(year) for year in rng.integers(1950, 1960, COUNT)],
        "area": [str(area) for area in np.exp(rng.normal(8, 1.2, COUNT)).astype(int)],
        "temperature": [f"{value:.1f}" for value in rng.normal(20, 3, COUNT)],
    }
    found = remarks(ColumnChoice(numbers=tuple(columns)), columns, CLASSES)
    assert [note.split("in ")[1].split()[0] for note in found] == ["zipcode", "ward", "area"]
    assert "`categories` zipcode" in found[0]
    assert "`log_columns` area" in found[2]
    assert len(remarks(ColumnChoice(numbers=tuple(columns), log=("area",)), columns, CLASSES)) == 2

"""The page of what is read is what the product says, case by case."""

import pytest

from tests.what_is_read import PAGE, _cell, outcome_of, sections

SECTIONS = sections()


@pytest.fixture(scope="module")
def rows() -> set[str]:
    return set(PAGE.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("section", "case"),
    [pytest.param(section, case, id=f"{section.title}: {case.kind}") for section in SECTIONS for case in section.cases],
)
def test_what_comes_of_each_kind_stands_in_the_page(section, case, rows):
    """After a change on purpose: ``python -m tests.what_is_read``."""
    assert f"| {_cell(case.kind)} | {_cell(outcome_of(section, case))} |" in rows


def test_the_page_has_no_other_rows_and_no_kind_twice(rows):
    kinds = [(section.title, case.kind) for section in SECTIONS for case in section.cases]
    assert len(set(kinds)) == len(kinds)
    assert sum(row.startswith("| ") for row in rows) == len(kinds) + 1

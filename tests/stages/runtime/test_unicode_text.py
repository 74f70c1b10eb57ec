import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.runtime.unicode_text import as_unicode, differing_in_capitals, look_alikes, printable, told_apart


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_encoded_and_holds_nothing_that_a_terminal_obeys(text):
    printable(text).encode()
    assert not [character for character in printable(text) if character < " " and character not in "\t\n"]


@given(st.text())
def test_what_is_unicode_stays_as_it_is(text):
    assert as_unicode(text) == text


def test_bytes_that_are_no_text_and_controls_are_escaped():
    assert printable("h\udcfctte\n\x1b[2J") == "h\\udcfctte\n\\x1b[2J"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["caf\u00e9", "dog", "cafe\u0301"], ["caf\u00e9 (composed)", "dog", "cafe\u0301 (decomposed)"]),
        (["a\udcfc", "a\\udcfc"], ["a\\udcfc (spelling 1)", "a\\udcfc (spelling 2)"]),
    ],
)
def test_names_that_look_the_same_are_told_apart_in_words(names, shown):
    assert told_apart(names) == shown
    assert bool(look_alikes(names)) == (shown != names)


def test_names_that_differ_in_capitals_alone_are_found():
    assert differing_in_capitals(["cat", "Dog", "Cat", "dog", "bird"]) == [["Cat", "cat"], ["Dog", "dog"]]
    assert differing_in_capitals(["cafe\u0301", "caf\u00e9"]) == []  # these look the same

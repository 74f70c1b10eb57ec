import pytest

from cache.errors import (
    BrokenShardError,
    CacheError,
    CacheInputError,
    CutonceError,
    DataError,
    UsageError,
    WeightsError,
    alternatives,
    listed,
)


@pytest.mark.parametrize(
    ("names", "separator", "text"),
    [
        ([], ", ", ""),
        (["a"], ", ", "a"),
        (["a", "b"], ", ", "a, b"),
        (["a", "b", "c", "d"], ", ", "a, b and 2 more"),
        (["a", "b", "c"], "; ", "a; b; and 1 more"),
    ],
)
def test_the_first_names_are_said_and_how_many_more_there_are(names, separator, text):
    assert listed(names, 2, separator) == text


@pytest.mark.parametrize("error", [UsageError, DataError, WeightsError, CacheInputError])
def test_what_other_arguments_would_help_against_is_a_value_error(error):
    assert issubclass(error, ValueError)
    assert issubclass(error, CutonceError)


def test_a_damaged_cache_is_no_value_error():
    assert not issubclass(CacheError, ValueError)
    assert not issubclass(BrokenShardError, ValueError)


LETTERS = [letter * 4 for letter in "abcdefghijklmno"]


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("lat", ["late", "soon"], " Did you mean 'late'? There are late, soon, or never."),
        ("x", ["late"], " There is late, or never."),
        ("x", [], " There are none, or never."),
        ("aaab", LETTERS, " Did you mean 'aaaa'? The help lists all 15, or never."),
        ("xyz", LETTERS, f" There are {', '.join(LETTERS)}, or never."),
    ],
)
def test_what_is_near_comes_before_what_there_is_which_is_left_out_where_it_is_long(name, known, said):
    assert alternatives(name, known, listed_by="The help", otherwise=", or never") == said

import pytest

from cache.errors import listed


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

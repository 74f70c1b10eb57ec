from cache.errors import listed


def test_long_lists_are_cut_and_the_rest_is_counted():
    names = ["a", "b", "c", "d"]
    assert listed(names) == "a, b, c and 1 more"
    assert listed(names, 4) == "a, b, c, d"
    assert listed(names, 2, separator="; ") == "a; b; and 2 more"
    assert listed([]) == ""

import pytest

from pipeline.text import byte_count


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

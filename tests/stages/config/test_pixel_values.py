import pytest

from cache.errors import UsageError
from stages.config.pixel_values import parse_channels, parse_intensity_range, parse_page


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("bits:12", (0, 4095)),
        ("0,4095", (0, 4095)),
        ("-1000,3071", (-1000, 3071)),
        ("0.5,2", (0.5, 2)),
        ("0.1,1234567.890123", (0.1, 1234567.890123)),
    ],
)
def test_a_range_has_its_two_ends_and_is_written_as_it_is_read(text, limits):
    parsed = parse_intensity_range(text)
    assert (parsed.low, parsed.high) == limits
    assert parsed.is_resolved
    assert parse_intensity_range(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["percentile:1,99.5", "auto"])
def test_what_has_to_be_looked_for_says_so(text):
    assert not parse_intensity_range(text).is_resolved
    assert str(parse_intensity_range(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "bits:0",
        "bits:33",
        "bits:x",
        "5",
        "5,5",
        "9,1",
        "percentile:0,101",
        "percentile:5",
        "nan,1",
        "0,inf",
        "-inf,5",
        "12bit",
        "",
    ],
)
def test_what_is_no_range_is_refused_with_all_there_are(text):
    with pytest.raises(UsageError, match="full, bits:N, LOW,HIGH, percentile:P,Q or auto"):
        parse_intensity_range(text)


def test_channels_are_numbers_or_one_of_two_words():
    assert parse_channels("rgb") == parse_channels("all") == ()
    assert parse_channels("2,1,0") == (2, 1, 0)
    for text in ("red", "-1", "1,,2", ""):
        with pytest.raises(UsageError, match="`channels`"):
            parse_channels(text)


def test_a_page_is_a_word_or_a_number():
    assert [parse_page(text) for text in ("first", "middle", "max", "7")] == ["first", "middle", "max", 7]
    for text in ("last", "-1", "1.5", ""):
        with pytest.raises(UsageError, match="`page`"):
            parse_page(text)

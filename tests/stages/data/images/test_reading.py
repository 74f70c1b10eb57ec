import pytest

from stages.config.features import FeatureConfig
from stages.config.pixel_values import parse_intensity_range
from stages.data.images.reading import PLAIN, Reading, reading_of, remarks_in_words

WAYS = [
    PLAIN,
    Reading(shorter_side=256),
    Reading(page="middle"),
    Reading(page=3),
    Reading(channels=(2, 1, 0)),
    Reading(intensity=parse_intensity_range("bits:12")),
    Reading(intensity=parse_intensity_range("bits:10"), page="max"),
]


def test_every_way_to_read_has_a_decoder_of_its_own():
    assert len({reading.decoder for reading in WAYS}) == len(WAYS)
    assert Reading(shorter_side=100).decoder == Reading(shorter_side=200).decoder  # the preprocessing says it


def test_version_1_read_in_one_way_and_at_reduced_scale():
    assert PLAIN.decoder_of_version_1 == "torchvision+pillow/1"
    assert Reading(shorter_side=256).decoder_of_version_1 == "torchvision+pillow+reduced/1"
    assert {reading.decoder_of_version_1 for reading in WAYS[2:]} == {None}


def test_the_options_say_how_files_are_read():
    options = FeatureConfig(intensity_range="0,4095", channels="3", page="2", decoding="reduced")
    assert reading_of(options, 256) == Reading(parse_intensity_range("bits:12"), (3,), 2, 256)
    assert reading_of(FeatureConfig(), 256) == PLAIN


@pytest.mark.parametrize(
    ("remarks", "words"),
    [
        ({"pages left": 2}, "2 files of several pages or frames: the first was taken"),
        ({"stretched": 3, "deep": 3}, "3 images of floats, 32 bits or numbers below zero"),
        ({"cropped": 1}, "1 image of which the network sees the middle, less than 60% of the area"),
        ({"clipped": 1}, "1 image with values outside `intensity_range` full"),
        ({"few levels": 97, "deep": 100}, "97 of 100 images with more than 8 bits use fewer than 32 of 256 levels"),
    ],
)
def test_what_was_remarked_is_said_once_for_all_images(remarks, words):
    [line] = remarks_in_words(remarks, PLAIN)
    assert line.startswith(words)


def test_where_nothing_was_remarked_nothing_is_said():
    assert remarks_in_words({"deep": 100}, PLAIN) == []

import math
from dataclasses import replace

import pytest

from cache import key_of_bytes
from cache.errors import DataError
from pipeline.experiment.best.look import Look, SearchedData
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest


@pytest.fixture
def about(search_photographs, tmp_path):
    manifest = load_manifest(search_photographs.data)
    (tmp_path / "seed-0").mkdir()
    return SearchedData(search_photographs.data, manifest, 0, tmp_path / "seed-0", HeadConfig(cv=3))


def test_what_a_pass_will_take_follows_from_what_another_took(about, tmp_path):
    first = Look("", FeatureConfig(image_size=32, cache=tmp_path / "cache"), about)
    larger = Look("64px", replace(first.options, image_size=64), about)
    assert first.missing == 72
    assert math.isnan(first.seconds_an_image)
    assert larger.seconds_left(first) == 0.0  # nothing is known yet
    assert first.experiment.extractor is first.extractor
    assert first.missing == 0
    # four times the pixels take four times the sums; that is told before the network is loaded
    expected = 72 * first.seconds_an_image * 4
    assert larger.seconds_left(first, guessed=True) == pytest.approx(expected)
    assert "extractor" not in vars(larger)
    assert larger.seconds_left(first) == pytest.approx(expected)
    _ = larger.experiment
    assert larger.seconds_left(first) == 0.0


def test_rows_are_let_go_and_read_again(about, tmp_path):
    look = Look("", FeatureConfig(image_size=32, cache=tmp_path / "cache"), about)
    read = look.problems
    assert look.problems is read
    look.forget()
    assert look.problems is not read


def test_an_image_that_cannot_be_read_ends_a_strict_search(about, tmp_path, search_photographs):
    from pathlib import Path

    broken = Path(tmp_path / "broken.jpg")
    broken.write_bytes(b"no picture")
    manifest = replace(
        about.manifest,
        locations=[str(broken), *about.manifest.locations[1:]],
        keys=[key_of_bytes(broken.read_bytes()), *about.manifest.keys[1:]],
    )
    about = replace(about, manifest=manifest)
    with pytest.raises(DataError, match="1 images could not be read"):
        _ = Look("", FeatureConfig(image_size=32, cache=tmp_path / "cache", strict=True), about).experiment


def test_what_is_counted_nowhere_is_counted_in_the_network(about, tmp_path):
    known = Look("", FeatureConfig(image_size=224, cache=tmp_path / "cache"), about)
    own = Look("", replace(known.options, backbone="tests.own_network:OwnNetwork", image_size=32), about)
    assert known.multiply_adds == 385187552
    # a 3 x 3 convolution to 15 x 15 x 8 numbers, one to 13 x 13 x 12, and the output
    assert own.multiply_adds == 15 * 15 * 8 * 27 + 13 * 13 * 12 * 72 + 12 * 5

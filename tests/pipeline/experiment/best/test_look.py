import math
from dataclasses import replace

import pytest

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
    # four times the pixels take about four times the sums
    assert larger.multiply_adds / first.multiply_adds == pytest.approx(4, rel=0.15)
    pixels = larger.multiply_adds / first.multiply_adds
    assert larger.seconds_left(first) == pytest.approx(72 * first.seconds_an_image * pixels)
    _ = larger.experiment
    assert larger.seconds_left(first) == 0.0
    assert (larger.words, first.words) == ("efficientnet_lite0 at 64 px", "")


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
    manifest = replace(about.manifest, locations=[str(broken), *about.manifest.locations[1:]])
    about = replace(about, manifest=manifest)
    with pytest.raises(DataError, match="1 images could not be read"):
        _ = Look("", FeatureConfig(image_size=32, cache=tmp_path / "cache", strict=True), about).experiment

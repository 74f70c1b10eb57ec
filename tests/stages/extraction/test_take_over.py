"""Rows of version 1 are used where they are right, and only there."""

from dataclasses import replace

import numpy as np
import pytest

from cache import FeatureCache, Spec
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.take_over import has_rows_of_version_1
from tests.photographs import make_folder
from tests.stages.data.sources.test_version_1 import OTHERWISE


@pytest.fixture
def images(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=4)
    (folder / "sea" / "deep.png").write_bytes(OTHERWISE["PNG of 12 bits"])
    return load_manifest(DataConfig(str(folder)))


@pytest.fixture
def options(tmp_path):
    return FeatureConfig(
        image_size=64, cache=tmp_path / "cache", storage_dtype="float32", views=2, augment="flip", decode_on="cpu"
    )  # no GPU decoded for version 1


def fill_as_version_1(extractor, keys):
    """Leave a row of ones for every image and view under the name that version 1 gave to the cache."""
    for view in range(2):
        today = extractor.taps[0].cache_of_view(view)
        spec = Spec.from_json({**today.spec.to_json(), "decoder": extractor.reading.decoder_of_version_1})
        with FeatureCache(today.root, spec).writer() as writer:
            writer.append(keys, np.ones((len(keys), *extractor.row_shape), np.float32), seconds=9.0, view=view)


def test_images_that_are_read_as_before_are_taken_over_and_the_others_computed(images, options):
    extractor = build_extractor(options)
    keys = list(dict.fromkeys(images.keys))
    fill_as_version_1(extractor, keys)
    report = extract(extractor, images)
    assert (report.hits, report.extracted) == (len(keys) - 1, 1)
    expected = f"features of {len(keys) - 1} images were taken over from version 1 of the decoder; 1 are read otherwise"
    assert report.remarks[0].startswith(expected)
    for view in range(2):
        rows = extractor.taps[0].cache_of_view(view).read(keys, view)
        from_version_1 = (rows == 1).all(axis=1)
        deep = next(
            index for index, key in enumerate(keys) if images.locations[images.keys.index(key)].endswith("deep.png")
        )
        assert from_version_1.tolist() == [index != deep for index in range(len(keys))]
    again = extract(build_extractor(options), images)
    assert again.extracted == 0
    assert not again.remarks


def test_other_ways_to_read_take_nothing_over(images, options):
    fill_as_version_1(build_extractor(options), images.keys)
    report = extract(build_extractor(replace(options, page="middle")), images)
    assert report.hits == 0


def test_results_count_only_where_all_rows_are_still_the_same(images, options):
    extractor = build_extractor(options)
    keys = list(dict.fromkeys(images.keys))
    assert not has_rows_of_version_1(extractor, keys)
    fill_as_version_1(extractor, keys)
    extract(extractor, images)
    assert not has_rows_of_version_1(extractor, keys)
    deep = images.keys[next(i for i, path in enumerate(images.locations) if path.endswith("deep.png"))]
    assert has_rows_of_version_1(extractor, [key for key in keys if key != deep])

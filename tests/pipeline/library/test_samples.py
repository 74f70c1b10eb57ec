"""Samples of several images in Python: one row for each, as the commands make it."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.compose import ColumnTransformer

from cache.errors import UsageError
from pipeline.library.estimators import FeatureExtractor
from pipeline.library.functions import features
from pipeline.library.samples import SampleList

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
A, B, C, D, E = PIXELS


def test_the_features_of_a_sample_are_what_becomes_of_those_of_its_images(tmp_path):
    single = features(PIXELS, image_size=64)
    samples = [[A, B], [C, None], [D, E]]
    mean = features(samples, image_size=64, aggregate="mean")
    assert np.allclose(mean, [single[:2].mean(axis=0), single[2], single[3:].mean(axis=0)], atol=1e-6)
    side_by_side = FeatureExtractor(image_size=64, aggregate="concat").fit_transform([[A, B], [D, E]])
    assert np.array_equal(side_by_side, single[[0, 1, 3, 4]].reshape(2, -1))
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"front": [tmp_path / "0.png", tmp_path / "2.png"], "back": [tmp_path / "1.png", np.nan]})
    assert np.array_equal(features(table, image_size=64, aggregate="mean", cache=tmp_path / "cache"), mean[:2])
    parts = [("images", FeatureExtractor(image_size=64, aggregate="mean"), ["front", "back"])]
    beside = ColumnTransformer([*parts, ("numbers", "passthrough", ["area"])]).fit_transform(
        table.assign(area=[5.0, 7])
    )
    assert np.array_equal(beside, np.column_stack([mean[:2], [5, 7]]))
    words = table.astype("string")  # in which pandas has NA for what is missing
    assert np.array_equal(features(words, image_size=64, aggregate="mean", cache=tmp_path / "cache"), mean[:2])
    (tmp_path / "1.png").write_text("no image")
    left = features(table, image_size=64, aggregate="mean", on_unreadable="nan")
    assert np.array_equal(left, single[[0, 2]])  # an image that cannot be read is a missing one


def test_maxima_are_over_the_images_that_there_are_and_a_sample_without_any_is_nan():
    samples = SampleList.of([["a", None, "b"], ["c"], ["d", "e"]])
    assert (samples.images, samples.sizes, samples.places, samples.count) == (
        ["a", "b", "c", "d", "e"],
        [2, 1, 2],
        [0, 2, 0, 0, 1],
        3,
    )
    rows = np.array([[-3.0, 1.0], [-1.0, 0.0], [np.nan, np.nan], [-5.0, -6.0], [np.nan, np.nan]], np.float32)
    assert np.array_equal(samples.rows(rows, "max"), [[-1, 1], [np.nan, np.nan], [-5, -6]], equal_nan=True)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (
            ["a.png", "b.png"],
            {"aggregate": "mean"},
            r"images\[0\] is one str: with `aggregate` each sample is a sequence",
        ),
        ([{"front": A}], {"aggregate": "mean"}, r"images\[0\] is one dict: with `aggregate` each sample is a sequence"),
        ([{"a.png"}], {"aggregate": "mean"}, r"images\[0\] is one set: with `aggregate` each sample is a sequence"),
        ([[A], [None]], {"aggregate": "max"}, r"images\[1\]: a sample needs at least one image"),
        ([[A, B]], {"aggregate": "median"}, r"`aggregate` 'median' is not one of mean, max, concat"),
        ([[A, B], [C]], {"aggregate": "concat", "image_size": 64}, r"images\[1\] has 1 of 2 images.* take mean or max"),
    ],
)
def test_what_is_no_sample_is_refused_in_words(samples, options, message):
    with pytest.raises(UsageError, match=message):
        features(samples, **options)

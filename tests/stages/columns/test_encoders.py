"""Columns as numbers: those that scikit-learn's transformers give, from plain values that JSON holds."""

import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from stages.columns.encoders import encoder_from_json, words_of
from stages.columns.fit import fit_categories, fit_numbers, fit_texts

RNG = np.random.default_rng(0)
WORDS = ("Éclat", "eclat", "dry rot", "roof", "wet wet wet", "x", "ÆTHER", "42", "roof, new")


def through_json(encoder):
    return encoder_from_json(json.loads(json.dumps(encoder.to_json())))


def encode(encoder, cells):
    return through_json(encoder).encode(cells, cells)


def numbers_of(count, missing):
    cells = [f"{value:.3f}" for value in RNG.lognormal(3, 2, count)]
    return ["" if hidden else cell for cell, hidden in zip(cells, RNG.random(count) < missing, strict=True)]


@pytest.mark.parametrize("impute", ["median", "mean"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_numbers_are_those_of_scikit_learn(impute, missing):
    train, new = numbers_of(50, missing), numbers_of(20, 0.5)
    pipeline = make_pipeline(SimpleImputer(strategy=impute, add_indicator=True), StandardScaler())
    floats = [np.array([[float(cell or "nan")] for cell in cells]) for cells in (train, new)]
    encoded = encode(fit_numbers("area", train, train, impute), new)
    np.testing.assert_allclose(encoded.values, pipeline.fit(floats[0]).transform(floats[1]), rtol=1e-6, atol=1e-6)
    assert encoded.missing == new.count("")


@pytest.mark.parametrize("min_frequency", [1, 2, 5])
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_categories_are_those_of_scikit_learn(min_frequency):
    train = [f"{zipcode:05d}" for zipcode in RNG.zipf(1.6, 60) % 40]
    new = [*train[:20], "never", ""]
    reference = OneHotEncoder(
        min_frequency=min_frequency, handle_unknown="infrequent_if_exist", sparse_output=False
    ).fit(np.array(train, object)[:, None])
    encoder = fit_categories("zipcode", train, min_frequency)
    encoded = encode(encoder, new)
    assert np.array_equal(encoded.values, reference.transform(np.array(new, object)[:, None]))
    assert (encoded.unseen, encoded.missing) == (2, 1)
    assert "00001" in encoder.categories  # the zeros in front stay


def test_texts_are_those_of_scikit_learn():
    train, new = ([" ".join(RNG.choice(WORDS, 4)) for _ in range(count)] for count in (40, 15))
    new += ["", "nothing known", "roof"]
    vectorizer = TfidfVectorizer(strip_accents="unicode", sublinear_tf=True, min_df=2, max_features=1000)
    reference = vectorizer.fit(train).transform(new).toarray()
    encoded = encode(fit_texts("note", train), new)
    np.testing.assert_allclose(encoded.values, reference, rtol=1e-6, atol=1e-7)
    assert (encoded.missing, encoded.unseen) == (1, 1)
    assert words_of("Éclat, x 42!") == ["eclat", "42"]


@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_several_columns_are_those_of_a_column_transformer():
    area, rooms = numbers_of(30, 0.2), numbers_of(30, 0.0)
    kinds = [*"aabbbbcd"] * 3 + [*"abcdef"]
    table = np.array(
        [[float(a or "nan"), float(b), kind] for a, b, kind in zip(area, rooms, kinds, strict=True)], object
    )
    numeric = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    reference = ColumnTransformer(
        [
            ("area", numeric, [0]),
            ("rooms", numeric, [1]),
            ("kind", OneHotEncoder(min_frequency=2, handle_unknown="infrequent_if_exist"), [2]),
        ],
        sparse_threshold=0,
    ).fit(table[:20])
    encoders = (
        fit_numbers("area", area[:20], area, "median"),
        fit_numbers("rooms", rooms[:20], rooms, "median"),
        fit_categories("kind", kinds[:20], 2),
    )
    cells = (area[20:], rooms[20:], kinds[20:])
    ours = np.concatenate([encode(*pair).values for pair in zip(encoders, cells, strict=True)], axis=1)
    np.testing.assert_allclose(ours, reference.transform(table[20:]).astype(float), rtol=1e-6, atol=1e-6)


def test_the_logarithm_is_standardized():
    cells = ["1", "10", "100", ""]
    values = encode(fit_numbers("area", cells, cells, "median", log=True), ["10", ""]).values
    assert np.allclose(values[0, 0], 0)
    assert np.allclose(values[1, 0], 0)  # the median of the logarithms
    assert values[1, 1] > 0 > values[0, 1]

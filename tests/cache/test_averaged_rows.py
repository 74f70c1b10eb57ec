from dataclasses import replace

import numpy as np
import pytest

from cache import FeatureCache
from cache import averaged_rows as averaging
from cache.averaged_rows import AveragedRows
from tests.cache.conftest import SPEC, features_of, fill, make_keys

KEYS, OTHER_VIEW = make_keys(40), 3


@pytest.fixture
def store(tmp_path):
    """The rows of forty images, and others of the last thirty."""
    cache = FeatureCache(tmp_path, SPEC)
    fill(cache, KEYS)
    other = FeatureCache(tmp_path, replace(SPEC, views={"augment": "mirror"}))
    with other.writer() as writer:
        writer.append(KEYS[10:], features_of(KEYS[10:], view=OTHER_VIEW), seconds=1.0, view=OTHER_VIEW)
    return AveragedRows(cache, other, OTHER_VIEW)


def means(keys):
    return (features_of(keys) + features_of(keys, view=OTHER_VIEW)) / 2


@pytest.mark.parametrize("block_numbers", [6, 25, 1 << 20])
def test_rows_are_means_in_the_order_asked(store, monkeypatch, block_numbers):
    monkeypatch.setattr(averaging, "_BLOCK_NUMBERS", block_numbers)
    asked = [KEYS[20], KEYS[10], KEYS[39], KEYS[20]]
    np.testing.assert_array_equal(store.read(asked), means(asked))
    assert (store.row_shape, store.dtype) == ((6,), np.float32)


def test_batches_are_those_of_the_rows_themselves_as_means(store):
    keys = KEYS[10:]
    order = [batch.positions.tolist() for batch in store.cache.batches(keys, 8, seed=3)]
    batches = list(store.batches(keys, 8, seed=3))
    assert [batch.positions.tolist() for batch in batches] == order
    for batch in batches:
        np.testing.assert_array_equal(batch.rows, means([keys[position] for position in batch.positions]))


def test_what_lacks_either_row_is_missing(store):
    unknown = make_keys(2, start=100)
    assert store.missing([*KEYS[5:12], unknown[0], KEYS[5]]) == [*KEYS[5:10], unknown[0]]
    assert store.missing(KEYS[10:]) == []

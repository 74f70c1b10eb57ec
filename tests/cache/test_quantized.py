import pickle
from dataclasses import replace

import numpy as np
import pytest

from cache import FeatureCache
from cache.errors import CacheError, CacheInputError, NonFiniteRowsError
from cache.quantized import dequantize, quantize, row_shape_of, stored_shape
from tests.cache.conftest import SPEC, make_keys, shard_paths

KEYS = make_keys(9)
MAPS = np.random.default_rng(0).normal(0, [[[[0.1]], [[5.0]], [[50.0]]]], (9, 3, 5, 7)).astype(np.float16)


@pytest.fixture
def cache(tmp_path):
    cache = FeatureCache(tmp_path, replace(SPEC, dtype="uint8"))
    with cache.writer() as writer:
        writer.append(KEYS[:5], MAPS[:5])
        writer.append(KEYS[5:], MAPS[5:].astype(np.float32))
    return cache


@pytest.mark.parametrize("scale", [1e-4, 1.0, 5_000.0])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 6, 1, 1), (2, 3, 3, 2)])
def test_a_number_is_off_by_half_a_step_of_its_channel_and_its_rounding(scale, offset, shape):
    rows = (scale * (np.random.default_rng(0).standard_normal(shape) + offset)).astype(np.float16)
    wide = rows.astype(np.float32)
    ranges = np.ptp(wide, axis=(2, 3), keepdims=True)
    off = np.abs(dequantize(quantize(rows)).astype(np.float32) - wide)
    # the size of a step, and what is read, are rounded to 11 bits
    assert (off <= ranges * (1 / 510 + 1 / 2048) + np.abs(wide) / 2048 + 2e-5).all()


def test_a_channel_that_is_all_one_number_stays_so():
    rows = np.full((1, 2, 3, 4), 0.3, np.float16)
    assert np.array_equal(dequantize(quantize(rows)), rows)


@pytest.mark.parametrize("shape", [(40, 45, 60), (3, 2, 1), (3, 2, 4)])
def test_the_shape_of_a_row_is_known_from_that_of_its_bytes(shape):
    assert row_shape_of(stored_shape(shape)) == shape


def test_the_maps_of_three_depths_take_little_more_than_half_of_the_bytes():
    shapes = [(40, 45, 60), (112, 23, 30), (320, 12, 15)]
    ratio = sum(np.prod(stored_shape(shape)) for shape in shapes) / sum(2 * np.prod(shape) for shape in shapes)
    assert ratio == pytest.approx(0.522, abs=5e-4)


def test_what_is_read_is_float16_in_the_order_asked_whatever_was_given(cache):
    assert (cache.row_shape, cache.dtype) == ((3, 5, 7), np.float16)
    expected = dequantize(quantize(MAPS))
    order = [8, 0, 3, 3]
    assert np.array_equal(cache.read([KEYS[place] for place in order]), expected[order])
    out = np.empty((2, 3, 5, 7), np.float16)
    assert cache.read(KEYS[:2], out=out) is out
    assert np.array_equal(out, expected[:2])
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).read(KEYS), expected)


def test_rows_are_read_a_few_at_a_time(cache, monkeypatch):
    whole = cache.read(KEYS)
    monkeypatch.setattr("cache.feature_cache._DEQUANTIZED_BYTES", 1)
    assert np.array_equal(cache.read(KEYS), whole)


def test_batches_hold_each_row_once(cache):
    expected, seen = cache.read(KEYS), []
    for positions, rows in cache.batches(KEYS, 4, seed=0, memory_bytes=32 << 20):
        assert np.array_equal(rows, expected[positions])
        seen += positions.tolist()
    assert sorted(seen) == list(range(9))


def test_a_second_writer_goes_on_and_another_shape_is_refused(cache):
    with cache.writer() as writer:
        writer.append(["a" * 32], MAPS[:1], view=1)
        with pytest.raises(CacheError, match="do not belong"):
            writer.append(["b" * 32], MAPS[:1, :, :4])
    assert np.array_equal(cache.read(["a" * 32], view=1), cache.read(KEYS[:1]))


def test_damage_is_found_and_told_by_key(cache):
    (path,) = shard_paths(cache)[:1]
    content = bytearray(path.read_bytes())
    row = quantize(MAPS[:1]).tobytes()
    content[content.index(row) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=KEYS[0]):
        FeatureCache(cache.root, cache.spec).read(KEYS)


def test_numbers_that_are_not_finite_are_refused_before_they_are_steps(cache):
    for value in (np.nan, np.inf, 1e6):
        rows = MAPS[:1].astype(np.float32)
        rows[0, 1, 2, 3] = value
        with cache.writer() as writer, pytest.raises(NonFiniteRowsError):
            writer.append(["c" * 32], rows)


def test_vectors_are_refused_with_what_to_do(tmp_path):
    with (
        FeatureCache(tmp_path, replace(SPEC, dtype="uint8")).writer() as writer,
        pytest.raises(CacheInputError, match="store them as float16"),
    ):
        writer.append(KEYS, np.ones((9, 4), np.float16))

"""Streamed rows read as something else: the same rows, of another width, in blocks that find room."""

import numpy as np
import pytest

from stages.fitting.feature_rows import FeatureRows
from stages.fitting.solvers.mapped_rows import MappedRows
from tests.stages.fitting.stored_rows import streamed


@pytest.fixture
def parts():
    generator = np.random.default_rng(0)
    return [
        FeatureRows(generator.normal(size=(count, 40)).astype(np.float16), np.arange(count)) for count in (300, 100)
    ]


def sums_and_signs(rows):
    """Return of each row its sum, and the signs of its first numbers, float32 [b, 3]."""
    return np.column_stack([rows.sum(axis=1), np.sign(rows[:, :2])]).astype(np.float32)


def test_each_row_is_read_as_what_the_function_makes_of_it(parts, tmp_path):
    train, val = (MappedRows.of(rows, sums_and_signs, 3) for rows in streamed(tmp_path, parts))
    assert train.row_shape == (3,)
    both = train + val
    assert len(both) == 400
    assert np.array_equal(both.labels, np.concatenate([part.labels for part in parts]))
    expected = sums_and_signs(np.concatenate([part.features for part in parts]).astype(np.float32))
    places, blocks = zip(*both.blocks(), strict=True)
    assert np.array_equal(np.concatenate(places), np.arange(400))
    assert np.array_equal(np.concatenate(blocks), expected)
    assert blocks[0].dtype == np.float32


def test_what_is_read_at_a_time_and_what_is_made_of_it_is_an_eighth_of_what_rows_may_take(parts, tmp_path):
    seen = []

    def wide(rows):
        seen.append(len(rows))
        return np.repeat(rows, 5, axis=1)

    memory = 200_000
    rows = MappedRows.of(streamed(tmp_path, parts, memory)[0], wide, 200)
    assert sum(len(block) for _, block in rows.blocks()) == 300
    assert 1 < max(seen) <= memory // 8 // (40 * (2 + 4) + 200 * 4)


def test_shuffled_rows_are_what_is_made_of_them_too(parts, tmp_path):
    (rows, _), features = streamed(tmp_path, parts), parts[0].features.astype(np.float32)
    seen = []
    for indices, block in MappedRows.of(rows, sums_and_signs, 3).shuffled(50, seed=1):
        assert np.array_equal(block, sums_and_signs(features[indices]))
        seen += indices.tolist()
    assert sorted(seen) == list(range(300))
    assert seen != sorted(seen)

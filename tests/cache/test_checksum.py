from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cache.checksum import joined_checksum, row_checksums


@given(data=st.data(), rows=st.integers(1, 70), row_bytes=st.integers(1, 300))
def test_checksums_of_rows_give_the_checksum_of_the_joined_rows(data, rows, row_bytes):
    seed = data.draw(st.integers(0, 2**32 - 1))
    array = np.random.default_rng(seed).integers(0, 256, (rows, row_bytes), dtype=np.uint8)
    assert joined_checksum(row_checksums(array), row_bytes) == zlib.crc32(array.tobytes())


def test_the_checksum_of_a_row_is_plain_crc32():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert row_checksums(rows.view(np.uint8)).tolist() == [zlib.crc32(row.tobytes()) for row in rows]


def test_a_long_run_of_zeros_and_ones_is_told_apart_from_one_with_a_flipped_bit():
    rows = np.zeros((5000, 64), dtype=np.uint8)
    checksums = row_checksums(rows)
    assert joined_checksum(checksums, 64) == zlib.crc32(rows.tobytes())
    rows[2500, 7] ^= 1
    assert joined_checksum(checksums, 64) != zlib.crc32(rows.tobytes())

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.checksum import row_checksums, running_checksums, stretch_checksum


@settings(deadline=None)
@given(data=st.data(), rows=st.integers(1, 70), row_bytes=st.integers(1, 300))
def test_checksums_of_rows_give_the_checksum_of_any_stretch_of_them(data, rows, row_bytes):
    seed = data.draw(st.integers(0, 2**32 - 1))
    array = np.random.default_rng(seed).integers(0, 256, (rows, row_bytes), dtype=np.uint8)
    running = running_checksums(row_checksums(array), row_bytes)
    assert running.tolist() == [zlib.crc32(array[: stop + 1].tobytes()) for stop in range(rows)]
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    assert stretch_checksum(running, start, stop, row_bytes) == zlib.crc32(array[start:stop].tobytes())


def test_the_checksum_of_a_row_is_plain_crc32():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert row_checksums(rows.view(np.uint8)).tolist() == [zlib.crc32(row.tobytes()) for row in rows]


def test_a_long_run_of_zeros_is_told_apart_from_one_with_a_flipped_bit():
    rows = np.zeros((5000, 64), dtype=np.uint8)
    running = running_checksums(row_checksums(rows), 64)
    assert stretch_checksum(running, 0, 5000, 64) == zlib.crc32(rows.tobytes())
    rows[2500, 7] ^= 1
    assert stretch_checksum(running, 0, 5000, 64) != zlib.crc32(rows.tobytes())
    assert stretch_checksum(running, 2000, 3001, 64) != zlib.crc32(rows[2000:3001].tobytes())
    assert stretch_checksum(running, 2501, 5000, 64) == zlib.crc32(rows[2501:].tobytes())

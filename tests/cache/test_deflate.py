from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.deflate import DecompressionError, compress, crc32, decompress


@settings(deadline=None)
@given(data=st.binary(max_size=5000), before=st.binary(max_size=50))
def test_the_checksum_is_zlibs(data, before):
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data, crc32(before)) == zlib.crc32(before + data)


@settings(deadline=None)
@given(data=st.binary(max_size=5000) | st.integers(0, 5000).map(bytes))
def test_what_is_packed_here_zlib_unpacks_and_the_other_way_round(data):
    assert (
        zlib.decompress(compress(data))
        == decompress(compress(data), len(data))
        == decompress(zlib.compress(data), len(data))
        == data
    )


def test_a_bomb_takes_no_more_memory_than_what_was_asked_for():
    bomb = zlib.compress(bytes(1 << 26), 1)
    tracemalloc.start()
    try:
        assert decompress(bomb, 1000) == bytes(1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [b"", b"no", compress(b"abc" * 100)[:-30], bytes(200), compress(b"abc" * 99)])
def test_what_does_not_unpack_to_the_right_length_is_an_error(packed):
    with pytest.raises(DecompressionError):
        decompress(packed, 300)


def test_everything_works_with_the_standard_library_alone(tmp_path):
    """Where there is no ISA-L; and shards made with one of the two are read with the other."""
    program = """if True:
        import sys
        if "without" in sys.argv:
            sys.modules["isal"] = None
        import zlib
        from cache import FeatureCache, deflate
        from tests.cache.conftest import SPEC, features_of, make_keys
        assert (deflate.zlib is zlib) == ("without" in sys.argv)
        cache = FeatureCache(sys.argv[1], SPEC)
        keys = make_keys(20)
        if not len(cache):
            with cache.writer(compression="gzip") as writer:
                writer.append(keys[:10], features_of(keys[:10]))
            with cache.writer() as writer:
                writer.append(keys[10:], features_of(keys[10:]))
        assert (cache.read(keys) == features_of(keys)).all()
    """
    for first, second in (("without", "with"), ("with", "without")):
        for argument in (first, second):
            subprocess.run([sys.executable, "-c", program, str(tmp_path / first), argument], check=True)


def test_anything_with_a_buffer_is_packed():
    rows = np.arange(12.0).reshape(3, 4)
    assert decompress(compress(rows), rows.nbytes) == rows.tobytes()

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cache import FeatureCache
from tests.cache.conftest import features_of, fill, make_keys, shard_paths

KEYS = make_keys(30)


def index_rows(cache: FeatureCache) -> dict[str, np.ndarray]:
    with h5py.File(cache.path / "index.h5") as file:
        keys = [key.decode() for key in file["keys"][()]]
        assert file["features"].shape == (len(keys), *cache.row_shape)
        assert (file["views"][()] == 0).all()
        return dict(zip(keys, file["features"][()], strict=True))


@pytest.mark.parametrize("shape", [(6,), (2, 3, 2)])
def test_any_hdf5_tool_sees_one_array_from_anywhere(cache, tmp_path, monkeypatch, shape):
    fill(cache, KEYS, shape=shape)
    cache.root.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    rows = index_rows(FeatureCache(tmp_path / "moved", cache.spec))
    assert rows.keys() == set(KEYS)
    np.testing.assert_array_equal([rows[key] for key in KEYS], features_of(KEYS, shape))


@pytest.mark.parametrize("spoil", ["missing", "torn", "empty", "stale"])
def test_the_cache_does_not_need_its_index_and_makes_it_again(cache, spoil):
    fill(cache, KEYS[:20])
    index = cache.path / "index.h5"
    old = index.read_bytes()
    fill(cache, KEYS[20:])
    if spoil == "missing":
        index.unlink()
    else:
        index.write_bytes({"torn": old[:300], "empty": b"", "stale": old}[spoil])
    reopened = FeatureCache(cache.root, cache.spec)
    np.testing.assert_array_equal(reopened.read(KEYS), features_of(KEYS))
    assert reopened.warnings == []
    with reopened.writer():
        pass
    assert index_rows(reopened).keys() == set(KEYS)


def test_rows_of_a_shard_that_is_gone_do_not_look_like_features(cache):
    fill(cache, KEYS)
    gone = shard_paths(cache)[0]
    gone.unlink()
    with h5py.File(cache.path / "index.h5") as file:
        assert np.isnan(file["features"][:10]).all()
        assert set(file["keys"][:10]) == {b""}
        assert np.isfinite(file["features"][10:]).all()


def test_there_is_no_index_of_nothing(cache):
    fill(cache, KEYS)
    for path in shard_paths(cache):
        path.unlink()
    cache.build_index()
    assert not (cache.path / "index.h5").exists()

"""A spec, a cache in a fresh folder, and rows whose values are known from their keys."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureCache, Spec, key_of_bytes

SPEC = Spec(
    backbone="resnet18",
    weights="5c106cde",
    cut="layer4",
    pooling="avg",
    preprocessing={"image_size": 224, "mean": [0.485, 0.456, 0.406]},
    views=None,
    precision="fp32",
    dtype="float32",
    decoder="torchvision",
)


def make_keys(count: int, start: int = 0) -> list[str]:
    return [key_of_bytes(str(index).encode()) for index in range(start, start + count)]


def features_of(keys: list[str], shape: tuple[int, ...] = (6,), view: int = 0) -> np.ndarray:
    """Return rows that tell their key and view, so that a row under a wrong key is seen."""
    rows = np.empty((len(keys), *shape), dtype=np.float32)
    for row, key in zip(rows, keys, strict=True):
        row[:] = np.random.default_rng([int(key, 16), view]).standard_normal(shape)
    return rows


def fill(cache: FeatureCache, keys: list[str], shard_rows: int = 10, shape: tuple[int, ...] = (6,)) -> None:
    with cache.writer(shard_bytes=2 * shard_rows * 4 * int(np.prod(shape))) as writer:
        writer.append(keys, features_of(keys, shape), seconds=len(keys))


def shard_paths(cache: FeatureCache) -> list[Path]:
    return sorted((cache.path / "shards").glob("*.h5"))


@pytest.fixture
def spec() -> Spec:
    return SPEC


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "caches", SPEC)


def holds_right_rows(cache: FeatureCache, keys: list[str]) -> bool:
    return bool((cache.read(keys) == features_of(keys)).all()) and cache.missing(keys) == []


@pytest.fixture
def read_only_folder():
    """A folder, and a function that takes the right to write to it away from this user in a child process."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)

    def become_reader() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        else:
            for path in [folder, *folder.rglob("*")]:
                path.chmod(path.stat().st_mode & ~0o222)

    yield folder, become_reader
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
    shutil.rmtree(folder)

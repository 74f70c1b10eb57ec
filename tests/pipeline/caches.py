"""A cache of rows that tell their keys, and manifests over them, made without a network or an image."""

from pathlib import Path

import numpy as np

from cache import FeatureCache, Spec
from stages.data.manifest import Manifest
from stages.tasks.single_label import SingleLabel
from tests.cache.conftest import SPEC, features_of, make_keys

KEYS = make_keys(40)


def make_cache(
    root: Path,
    keys: list[str] = KEYS,
    shape: tuple[int, ...] = (6,),
    views: tuple[int, ...] = (0,),
    spec: Spec = SPEC,
) -> FeatureCache:
    """A cache with one shard per view; every row differs from every other."""
    cache = FeatureCache(root, spec)
    for view in views:
        with cache.writer() as writer:
            writer.append(keys, features_of(keys, shape, view), seconds=len(keys), view=view)
    return cache


def make_manifest(keys: list[str]) -> Manifest:
    """Samples of two classes in three splits, with names that are hard to write down."""
    names = [f"photos/{number}, \N{GRINNING FACE}\n\udcff.jpg" for number in range(len(keys))]
    labels = np.arange(len(keys)) % 2
    splits = [("train", "val", "test")[number % 3] for number in range(len(keys))]
    return Manifest(names, labels, splits, keys, SingleLabel(["cat", "d\udcf6g"]))


def make_run(place: Path, *keys: list[str]) -> Path:
    """A run directory with one seed for each list of keys, numbered backwards from 11."""
    for number, seed_keys in enumerate(keys):
        make_manifest(seed_keys).save(place / f"seed-{11 - number}" / "manifest.csv")
    return place

"""The feature cache: arrays, keys, specs, HDF5. Knows nothing of images, networks or torch modules.

Names are loaded when they are first used, so that importing :mod:`cache.errors` alone stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.feature_cache import FeatureCache
    from cache.inventory import CacheSummary, find_caches, list_caches, open_cache
    from cache.keys import DigestCache, key_of_bytes, key_of_file
    from cache.maintenance import CorruptRow, PruneSummary
    from cache.spec import Spec

_HOME = {
    "CacheSummary": "inventory",
    "CorruptRow": "maintenance",
    "FeatureCache": "feature_cache",
    "DigestCache": "keys",
    "Spec": "spec",
    "PruneSummary": "maintenance",
    "find_caches": "inventory",
    "key_of_bytes": "keys",
    "key_of_file": "keys",
    "list_caches": "inventory",
    "open_cache": "inventory",
}

__all__ = [
    "CacheSummary",
    "CorruptRow",
    "DigestCache",
    "FeatureCache",
    "PruneSummary",
    "Spec",
    "find_caches",
    "key_of_bytes",
    "key_of_file",
    "list_caches",
    "open_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

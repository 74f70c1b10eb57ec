"""Which caches are there: what each is made of, how big and how old."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from cache.documents import read_document
from cache.errors import CacheError
from cache.spec import Spec
from cache.store import FeatureCache


class CacheSummary(NamedTuple):
    """One cache under a root.

    Attributes
    ----------
    path : Path
    spec : Spec or None
        None where it cannot be read; the notes say why.
    rows, size : int
        Rows served, bytes on disk.
    modified : float
        When rows were last added, seconds since the epoch.
    notes : list of str
        What was found wrong.
    """

    path: Path
    spec: Spec | None
    rows: int
    size: int
    modified: float
    notes: list[str]


def list_caches(root: Path | str) -> list[CacheSummary]:
    """Return a summary of every cache under `root`, the last added to first.

    Raises
    ------
    CacheError
        If `root` cannot be listed.
    """
    try:
        directories = [path for path in Path(root).iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]
    except OSError as error:
        raise CacheError(f"there is no cache at {root}: {error.strerror}; check --cache") from error
    return sorted((_summary(path) for path in directories), key=lambda summary: summary.modified, reverse=True)


def _summary(path: Path) -> CacheSummary:
    shards = path / "shards"
    modified = (shards if shards.exists() else path).stat().st_mtime
    try:
        cache = FeatureCache(path.parent, Spec.from_json(read_document(path / "spec.json", "feature-cache", "spec")))
        if cache.path != path:
            raise CacheError(f"{path / 'spec.json'} is not the spec of this cache")
        return CacheSummary(path, cache.spec, len(cache), cache.size_on_disk, modified, cache.notes)
    except (CacheError, FileNotFoundError) as error:
        return CacheSummary(path, None, 0, 0, modified, [str(error)])

"""Which caches are there: what each is made of, how big and how old."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cache.errors import CacheError, CacheInputError, UsageError
from cache.feature_cache import FeatureCache
from cache.json_documents import BrokenDocumentError, read_document
from cache.spec import Spec

_MENDED = "`extract`, of images that the cache has, writes it again"


class CacheSummary(NamedTuple):
    """One cache under a root.

    Attributes
    ----------
    path : Path
    spec : Spec or None
        None where it cannot be read; the notes say why.
    rows, views, size : int
        Rows served, how many views they are of, bytes on disk.
    modified : float
        When shards last came or went, seconds since the epoch.
    notes : list of str
        What was found wrong.
    pending : int
        Rows that extractions which are running have made and not yet put on disk.
    """

    path: Path
    spec: Spec | None
    rows: int
    views: int
    size: int
    modified: float
    notes: list[str]
    pending: int = 0


def list_caches(root: Path | str) -> list[CacheSummary]:
    """Return a summary of every cache under `root`, the last added to first.

    Raises
    ------
    CacheError
        If `root` cannot be listed.
    """
    return sorted((_summary(path) for path in _directories(root)), key=lambda summary: summary.modified, reverse=True)


def find_caches(root: Path | str, fingerprints: Sequence[str] = ()) -> list[Path]:
    """Return the directories of the caches with these fingerprints, or of all where none is given.

    Parameters
    ----------
    root : Path
    fingerprints : sequence of str
        As many of the first digits of each as no other cache under `root` begins with.

    Raises
    ------
    UsageError
        If there is no such cache, or more than one; names those there are.
    CacheError
        If `root` cannot be listed, or holds no cache.
    """
    paths = _directories(root)
    if not paths:
        raise CacheInputError(f"there is no cache in {root}; check `cache`")
    matches = [_one_of(paths, fingerprint, root) for fingerprint in dict.fromkeys(fingerprints)]
    return matches if fingerprints else paths


def open_cache(path: Path) -> FeatureCache:
    """Return the cache in a directory, knowing only what ``spec.json`` says of it.

    Raises
    ------
    CacheError
        If that is not there, damaged, of another version, or does not belong there.
    """
    document = path / "spec.json"
    try:
        cache = FeatureCache(path.parent, Spec.from_json(read_document(document, "feature-cache", "spec")))
    except FileNotFoundError as error:
        raise CacheInputError(f"{document} is not there; {_MENDED}") from error
    except BrokenDocumentError as error:
        raise BrokenDocumentError(f"{error}; {_MENDED}") from error
    if cache.path != path:
        raise CacheError(f"{document} is not the spec of this cache")
    return cache


def _directories(root: Path | str) -> list[Path]:
    try:
        return sorted(path for path in Path(root).iterdir() if re.fullmatch("[0-9a-f]{32}", path.name))
    except OSError as error:
        raise CacheInputError(f"there is no cache at {root}: {error.strerror}; check `cache`") from error


def _one_of(paths: Sequence[Path], fingerprint: str, root: Path | str) -> Path:
    matches = [path for path in paths if path.name.startswith(fingerprint.lower())]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(path.name for path in matches or paths)
    if matches:
        raise UsageError(f"{fingerprint!r} may be any of {names}; give more digits")
    raise UsageError(f"no cache in {root} begins with {fingerprint!r}; there are {names}")


def _summary(path: Path) -> CacheSummary:
    shards = path / "shards"
    modified = (shards if shards.exists() else path).stat().st_mtime
    try:
        cache = open_cache(path)
        return CacheSummary(
            path,
            cache.spec,
            len(cache),
            len(cache.views),
            cache.size_on_disk,
            modified,
            cache.warnings,
            cache.pending_rows,
        )
    except CacheError as error:
        return CacheSummary(path, None, 0, 0, 0, modified, [str(error)])

"""What a cache holds at one moment, found by looking at its directory; and what becomes of a file that is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cache.errors import BrokenShardError, CacheError
from cache.row_index import RowIndex
from cache.shard import Shard, open_shard
from cache.spec import Spec

SHARDS = "shards"
DAMAGED = "damaged"


class ShardCatalog(NamedTuple):
    """The sound shards at one moment, and the place of every row in them; replaced when something changes.

    Attributes
    ----------
    shards : tuple of Shard
    names : frozenset of str
        Files that were looked at, sound or not, without those that were set aside.
    lookup : RowIndex
        Its shard numbers count in `shards`.
    """

    shards: tuple[Shard, ...] = ()
    names: frozenset[str] = frozenset()
    lookup: RowIndex = RowIndex.empty()

    def refreshed(self, directory: Path, spec: Spec, note: Callable[[str], None]) -> ShardCatalog:
        """Return the catalog of what is there now, having opened the new shards only.

        Parameters
        ----------
        directory : Path
            The cache's.
        spec : Spec
        note : callable
            Told of every shard that was refused.

        Raises
        ------
        CacheError
            If a shard is of another version or cannot be read, or if two shards cannot be of the same cache.
        """
        names = list_files(directory / SHARDS, ".h5")
        if self.names == set(names):
            return self
        if not self.names <= set(names):
            return ShardCatalog().refreshed(directory, spec, note)
        shards, tables, known = list(self.shards), [], set(self.names)
        for name in (name for name in names if name not in self.names):
            path = directory / SHARDS / name
            try:
                shard, table = open_shard(path, spec)
            except FileNotFoundError:
                known.add(name)  # it was there a moment ago: a look at what is there now shows the difference
                continue
            except BrokenShardError as error:
                if not quarantine(path, directory, str(error), note):
                    known.add(name)
                continue
            if shards and shard.row_shape != shards[0].row_shape:
                raise CacheError(
                    f"{path} holds rows of the shape {shard.row_shape} and {shards[0].path.name} of "
                    f"{shards[0].row_shape}: one of them does not belong here; move it away"
                )
            known.add(name)
            shards.append(shard)
            tables.append(table)
        lookup = self.lookup.merged(tables, first=len(self.shards)) if tables else self.lookup
        return ShardCatalog(tuple(shards), frozenset(known), lookup)


def list_files(directory: Path, suffix: str) -> list[str]:
    """Return the sorted names in a directory that end with `suffix`; none if it does not exist.

    Raises
    ------
    CacheError
        If it cannot be listed.
    """
    try:
        return sorted(path.name for path in directory.iterdir() if path.name.endswith(suffix))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"the cache cannot be read: {directory}: {error.strerror}") from error


def quarantine(path: Path, directory: Path, reason: str, note: Callable[[str], None]) -> bool:
    """Move a file that cannot be trusted out of the way, and tell; return whether it is gone from its place."""
    try:
        (directory / DAMAGED).mkdir(exist_ok=True)
        path.replace(directory / DAMAGED / path.name)
    except FileNotFoundError:
        return True  # another process was quicker
    except OSError:
        note(f"{reason}; it is ignored (and cannot be moved away: the cache is read-only)")
        return False
    note(f"{reason}; it was moved to {directory / DAMAGED}")
    return True

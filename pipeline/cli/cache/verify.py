"""``cache verify``: the checksum of every row."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.cache.flags import CacheFolder
from stages.config.features import FeatureConfig


def verify(
    *fingerprints: str,
    cache: CacheFolder = FeatureConfig.cache,
    repair: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Check every row against its checksum and name those that are damaged. The exit status is 1 if there are any.

    A shard that is damaged as a whole is moved to the folder damaged/ of its cache as soon as anything looks at it.

    Try:

    ```sh
    cutonce cache verify
    cutonce cache verify 9a81 --repair
    ```

    Parameters
    ----------
    fingerprints
        The caches, each by its first digits (default: all).
    repair
        Drop the damaged rows and keep the others; the next `extract` computes the dropped ones again. The exit status
        is 0 if that is done.
    """
    from cache import find_caches, open_cache
    from cache.errors import CacheError
    from pipeline.cli.cache.flags import short, title
    from pipeline.cli.output import echo
    from pipeline.text import table
    from stages.runtime.progress import progress

    damaged = unreadable = 0
    for path in find_caches(cache, fingerprints):
        try:
            opened = open_cache(path)
            rows = sum(shard.rows for shard in opened.shards)
        except CacheError as error:
            echo(f"{short(path)}: {error}")
            unreadable += 1
            continue
        check = opened.repair if repair else opened.verify
        damages = check(lambda shards: progress(shards, label=f"verify {short(path)}", unit="shards"))  # noqa: B023
        echo(f"{title(opened.spec)}: {rows:,} rows, {f'{len(damages):,} damaged' if damages else 'all sound'}")
        if damages:
            echo(table(["shard", "row", "key", "view"], [[str(value) for value in damage] for damage in damages]))
        echo(*(f"note: {note}" for note in opened.warnings))
        damaged += bool(damages or opened.warnings)
    if damaged and not repair:
        raise CacheError("there is damage: `cache verify --repair` drops damaged rows, `extract` computes them again")
    if damaged:
        echo("what was damaged is dropped: `extract` with the same options computes it again")
    if unreadable:
        raise CacheError(f"{unreadable} of the caches could not be opened, and were not checked")

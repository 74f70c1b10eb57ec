"""``cache verify``: the checksum of every row."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pipeline.commands.cache.signature import CacheFolder
from stages.options import Features


def verify(
    *fingerprints: str,
    cache: CacheFolder = Features.cache,
    repair: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Check every row against its checksum and name those that are damaged. The exit status is 1 if there are any.

    A shard that is damaged as a whole is moved to the folder damaged/ of its cache as soon as anything looks at it.

    Try:

    ```sh
    cutpoint cache verify
    cutpoint cache verify 9a81 --repair
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
    from pipeline.commands.cache.signature import short, title
    from pipeline.console import say, table
    from stages.progress import progress

    damaged = unreadable = 0
    for path in find_caches(cache, fingerprints):
        try:
            one = open_cache(path)
            rows = sum(shard.rows for shard in one.shards)
        except CacheError as error:
            say(f"{short(path)}: {error}")
            unreadable += 1
            continue
        check = one.repair if repair else one.verify
        damages = check(lambda shards: progress(shards, label=f"verify {short(path)}", unit="shards"))  # noqa: B023
        say(f"{title(one.spec)}: {rows:,} rows, {f'{len(damages):,} damaged' if damages else 'all sound'}")
        if damages:
            say(table(["shard", "row", "key", "view"], [[str(value) for value in damage] for damage in damages]))
        say(*(f"note: {note}" for note in one.notes))
        damaged += bool(damages or one.notes)
    if damaged and not repair:
        raise CacheError("there is damage: `cache verify --repair` drops damaged rows, `extract` computes them again")
    if damaged:
        say("what was damaged is dropped: `extract` with the same options computes it again")
    if unreadable:
        raise CacheError(f"{unreadable} of the caches could not be opened, and were not checked")

"""``cache show``: everything about one cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.cli.cache.flags import CacheFolder
from stages.config.features import FeatureConfig


def show(fingerprint: str, /, *, cache: CacheFolder = FeatureConfig.cache) -> None:
    """Show everything about one cache: what its features depend on, what is there, what it cost, what was wrong.

    Try:

    ```sh
    cutonce cache show 9a81
    ```

    Parameters
    ----------
    fingerprint
        The first digits, as many as are needed to tell it from the others.
    """
    from cache import find_caches, open_cache
    from pipeline.cli.output import echo
    from pipeline.text import byte_count, duration, flattened

    [path] = find_caches(cache, [fingerprint])
    opened = open_cache(path)
    shards, views, rejected = opened.shards, opened.views, opened.unreadable()
    changed = [shard.path.stat().st_mtime for shard in shards]
    made_of = opened.spec.to_json()
    taps = made_of.pop("taps", [])
    made_of = {name: "none" if value is None else value for name, value in made_of.items()}  # views, of the clean one
    lines = {
        "fingerprint": opened.spec.fingerprint,
        "folder": opened.path,
        **flattened(made_of),
        **({"taps": ", ".join(f"{tap['place']}:{tap['pool']} {tap['width']}" for tap in taps)} if taps else {}),
        "rows": ", ".join(f"{rows:,} of view {view}" for view, rows in views.items()) or "none",
        "shape of a row": list(opened.row_shape) if shards else "",
        "shards": f"{len(shards):,}",
        "oldest shard": _moment(min(changed)) if shards else "",
        "newest shard": _moment(max(changed)) if shards else "",
        "on disk": byte_count(opened.size_on_disk),
        "computed in": duration(sum(shard.seconds for shard in shards)),
        "rejected images": f"{len(rejected):,}",
        "files set aside": _files(opened.damaged),
        "leftovers": _files(opened.leftovers),
    }
    width = max(map(len, lines))
    echo(*(f"{name.ljust(width)}  {value}".rstrip() for name, value in lines.items()))
    echo(*(f"rejected: {key}: {reason!r}" for key, reason in rejected.items()))
    echo(*(f"set aside: {path}" for path in opened.damaged), *(f"note: {note}" for note in opened.warnings))


def _moment(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"


def _files(paths: Iterable[Path]) -> str:
    """Return how many files there are, and how big they are together."""
    from pipeline.text import byte_count

    sizes = [path.lstat().st_size for path in paths]
    return f"{len(sizes)} ({byte_count(sum(sizes))})" if sizes else "none"

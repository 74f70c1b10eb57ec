"""``cache prune``: drop what nobody needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.cache.flags import CacheFolder
from stages.config.features import FeatureConfig


def prune(
    *fingerprints: str,
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())],
    images: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    frames: int | None = None,
    cache: CacheFolder = FeatureConfig.cache,
    damaged: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Drop the features of images that no named run, manifest or data needs. Says what would go; --yes does it.

    Leftovers of writers that died go, too. Other processes may extract and train meanwhile, and a prune that was
    stopped has lost nothing that is needed.

    Try:

    ```sh
    cutonce cache prune --keep runs/photos runs/elpv
    cutonce cache prune 9a81 --keep photos/ --yes
    ```

    Parameters
    ----------
    fingerprints
        The caches, each by its first digits (default: all).
    keep
        Run directories (all their seeds), manifest.csv files, and data as --data takes it; what these need stays. Tiles
        are kept by the runs that they were cut for.
    images
        Columns of the tables of data that hold the images of a sample, as of `extract`.
    frames
        Most images of a sample of the data, as of `extract`, with which alone videos are read.
    damaged
        Empty the folder of damaged files that were set aside.
    yes
        Do it.
    """
    from cache import find_caches, open_cache
    from cache.atomic_write import remove
    from cache.errors import UsageError
    from pipeline.cli.cache.flags import short
    from pipeline.cli.output import echo
    from pipeline.experiment.setup.saved_manifests import load_all
    from pipeline.library.argument_names import argument_names
    from pipeline.text import byte_count, table

    if not keep:  # as of a shell's variable that is not set
        raise UsageError(
            "`keep` names nothing, and all would go: name what stays; a cache is its folder, to be deleted"
        )
    caches = [open_cache(path) for path in find_caches(cache, fingerprints)]
    needed: set[str] = set()
    for source in keep:
        with argument_names(data="keep"):
            manifests = load_all(source, cache, images, frames)
        keys = {key for manifest in manifests for key in manifest.distinct_images.keys}
        unreadable = {location for manifest in manifests for location, _ in manifest.unreadable}
        echo(f"keep {source}: {len(keys):,} different images")
        if unreadable:
            echo(f"note: {len(unreadable):,} files of it cannot be read, so nothing is kept for them")
        needed |= keys

    header = ["fingerprint", "backbone", "cut", "rows", "rows to drop", "files to remove", "size"]
    lines, rows_dropped, files_removed, size = [], 0, 0, 0
    for opened in caches:
        rows = sum(shard.rows for shard in opened.shards)
        files = [*opened.leftovers, *(opened.damaged if damaged else [])]
        file_size = sum(_size(path) for path in files)
        unneeded = opened.prune(needed) if yes else opened.plan_prune(needed)
        if yes:
            for path in files:
                remove(path)
        numbers = [f"{rows:,}", f"{unneeded.rows:,}", f"{len(files):,}", byte_count(unneeded.size + file_size)]
        lines.append([short(opened.path), opened.spec.backbone, opened.spec.cut, *numbers])
        rows_dropped, files_removed = rows_dropped + unneeded.rows, files_removed + len(files)
        size += unneeded.size + file_size
    echo("", table(header, lines, left=3), *(f"note: {note}" for opened in caches for note in opened.warnings), "")
    total = f"{rows_dropped:,} rows and {files_removed:,} files, about {byte_count(size)}"
    echo(f"removed {total}" if yes else f"would remove {total}; nothing was changed: --yes does it")


def _size(path: Path) -> int:
    return path.lstat().st_size

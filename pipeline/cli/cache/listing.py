"""``cache list``: every cache in one table."""

from __future__ import annotations

from pipeline.cli.cache.flags import CacheFolder
from stages.config.features import FeatureConfig


def list_caches(*, cache: CacheFolder = FeatureConfig.cache) -> None:
    """List every cache: what its features are made of, how many there are, how big and how old it is.

    Age is the time since features last came or went. A cache of augmented views holds several rows of an image. Rows
    that an extraction has made, and has not yet written, are counted as those in memory, as of its last ten seconds.

    Try:

    ```sh
    cutonce cache list
    ```
    """
    import time

    from cache import inventory
    from pipeline.cli.cache.flags import short
    from pipeline.cli.output import echo
    from pipeline.text import byte_count, table

    caches = inventory.list_caches(cache)
    if not caches:
        echo(f"{cache} holds no cache")
        return
    header = ["fingerprint", "backbone", "cut", "pool", "precision", "dtype", "pixels", "rows", "views", "size", "age"]
    now = time.time()
    lines = []
    for summary in caches:
        spec = summary.spec
        made_of = [spec.backbone, spec.cut, spec.pooling, spec.precision, spec.dtype] if spec else ["?"] * 5
        pixels = spec.preprocessing.get("image_size", "?") if spec else "?"
        crop_mode = f" {spec.preprocessing['crop_mode']}" if spec and "crop_mode" in spec.preprocessing else ""
        rows = f"{summary.rows:,}" + (f" + {summary.pending:,} in memory" if summary.pending else "")
        size = [rows, str(summary.views), byte_count(summary.size), _age(now - summary.modified)]
        lines.append([short(summary.path), *made_of, f"{pixels}{crop_mode}", *size])
    echo(
        table(header, lines, left=6),
        *(f"note: {short(summary.path)}: {note}" for summary in caches for note in summary.notes),
    )


def _age(seconds: float) -> str:
    """Return a time in its largest unit: 40 s, 5 min, 3 h, 12 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"

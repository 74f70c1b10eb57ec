"""``cache export``: features for other programs."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.cache.signature import CacheFolder
from stages.options import Features


def export(
    fingerprint: str,
    out: Path,
    /,
    *,
    manifest: Path | None = None,
    view: int = 0,
    cache: CacheFolder = Features.cache,
) -> None:
    """Write the features of one cache into a .npz, .parquet or .safetensors file, with keys, paths, labels and splits.

    The numbers are those of the cache, bit for bit. Without --manifest there are keys and features only, in the order
    in which they are stored. Parquet is written a few megabytes at a time and needs `pip install 'cutpoint[parquet]'`;
    the other two need memory for all features.

    Try:

    ```sh
    cutpoint cache export 9a81 photos.npz --manifest runs/photos
    cutpoint cache export 9a81 all.parquet
    ```

    Parameters
    ----------
    fingerprint
        The first digits, as many as are needed to tell it from the others.
    out
        The file; its ending names the format.
    manifest
        A run directory (its first seed) or a manifest.csv; its samples are written, in its order.
    view
        Which rendering of the images; 0 is the clean one, from 1 on the augmented ones.
    """
    from cache import find_caches, open_cache
    from pipeline.commands.cache.signature import title
    from pipeline.console import byte_count, say
    from pipeline.export import export_features
    from pipeline.manifests import load_one

    [place] = find_caches(cache, [fingerprint])
    one = open_cache(place)
    samples = load_one(manifest) if manifest is not None else None
    exported = export_features(one, out, samples, view)
    say(f"{title(one.spec)}: {len(exported.keys):,} rows of {list(one.row_shape)}, view {view}, {one.dtype.name}")
    if samples is not None and len(exported.keys) < len(samples):
        say(f"note: {len(samples) - len(exported.keys):,} images of the manifest that could not be read are left out")
    say(f"{out}: {byte_count(out.stat().st_size)}")

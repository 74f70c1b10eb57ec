"""``cache export``: features for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.cli.cache.flags import CacheFolder
from pipeline.options.export_formats import EXPORT_FORMATS
from stages.config.features import FeatureConfig


def export(
    fingerprint: str,
    out: Annotated[Path, Parameter(help=f"The file; its ending: {', '.join(EXPORT_FORMATS.named_help_texts())}.")],
    /,
    *,
    manifest: Path | None = None,
    view: int = 0,
    cache: CacheFolder = FeatureConfig.cache,
) -> None:
    """Write the features of one cache into one file for other programs, with keys, paths, labels and splits.

    The numbers are those of the cache, bit for bit. Without --manifest there are keys and features only, in the order
    in which they are stored. Parquet needs `pip install 'pyarrow>=16'`; the other two, memory for all features.

    Try:

    ```sh
    cutonce cache export 9a81 photos.npz --manifest runs/photos
    cutonce cache export 9a81 all.parquet
    ```

    Parameters
    ----------
    fingerprint
        The first digits, as many as are needed to tell it from the others.
    manifest
        A run directory (its first seed) or a manifest.csv; its samples are written, in its order.
    view
        Which rendering of the images; 0 is the clean one, from 1 on the augmented ones.
    """
    from cache import find_caches, open_cache
    from pipeline.cli.cache.flags import title
    from pipeline.cli.output import echo
    from pipeline.experiment.setup.saved_manifests import load_one
    from pipeline.library.export import export_features
    from pipeline.text import byte_count

    [path] = find_caches(cache, [fingerprint])
    one = open_cache(path)
    samples = load_one(manifest) if manifest is not None else None
    exported = export_features(one, out, samples, view)
    echo(f"{title(one.spec)}: {len(exported.keys):,} rows of {list(one.row_shape)}, view {view}, {one.dtype.name}")
    if samples is not None and len(exported.keys) < len(samples):
        echo(f"note: {len(samples) - len(exported.keys):,} images of the manifest that could not be read are left out")
    echo(f"{out}: {byte_count(out.stat().st_size)}")

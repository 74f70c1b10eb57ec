"""``extract``: stage 1 alone, in one process or in several that torchrun starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import DataError
from pipeline.cli.flags import DataFlags, Estimate, Extraction, FeatureFlags
from stages.config.features import FeatureConfig

if TYPE_CHECKING:
    from stages.data.manifest import Manifest
    from stages.extraction.extractor import Extractor


def extract(
    *, data: DataFlags, features: FeatureFlags = FeatureConfig(), out: Path | None = None, dry_run: bool = False
) -> Extraction | Estimate:
    """Run the frozen backbone once over the images and cache its features (stage 1).

    Only images the cache does not know are run; a second call does nothing and says so. Renaming, moving,
    relabelling or re-splitting images costs nothing: a feature belongs to the bytes of its image.

    No labels are needed: a folder of images, a table with the column path, or a text file with a path in each line will
    do.

    Several processes may fill one cache: start the same command more than once, on one machine or on many that see
    the same folder, or let `torchrun` start it. They share the work, and whoever goes on later does what is missing.

    Try:

    ```sh
    cutonce extract --data photos/ --backbone resnet18 --cut layer3,layer4 --dry-run
    cutonce extract --data photos/ --backbone resnet18 --cut layer3,layer4
    torchrun --nproc-per-node=4 -m pipeline extract --data photos/
    ```

    Parameters
    ----------
    out
        Run directory to leave the manifest and the account of the extraction in.
    dry_run
        Time some batches and say what the extraction would take, in hours and gigabytes; keep no features.
    """
    from dataclasses import replace
    from functools import partial

    from pipeline.cli.output import echo
    from pipeline.experiment.setup.run_setup import (
        extract_features,
        format_manifest,
        init_seed,
        make_manifest,
        resolve_features,
    )
    from stages.extraction.extractor import build_extractor
    from stages.runtime.distributed import process_group

    with process_group() as rank:
        features = rank.broadcast_from_first(partial(resolve_features, data, features))
        features = replace(features, device=rank.device(features.device))
        extractor = build_extractor(features)
        seed = data.seeds[0]
        directory = None
        if out is not None and not dry_run:
            manifest, directory = rank.broadcast_from_first(lambda: init_seed(out, data, features, seed, labels=False))
        else:
            manifest = rank.broadcast_from_first(lambda: make_manifest(data, features, seed, labels=False))
            if rank.is_main:
                echo(format_manifest(manifest))
        if dry_run:
            return _estimate(extractor, manifest)
        report = extract_features(extractor, manifest, directory, rank)
    if features.strict and report.skipped:
        raise DataError(f"{len(report.skipped)} images could not be read (--strict)")
    return report


def _estimate(extractor: Extractor, manifest: Manifest) -> Estimate:
    from pipeline.cli.output import echo
    from pipeline.experiment.setup.map_room import maps_in_words
    from pipeline.text import byte_count, duration, format_count, table
    from stages.extraction.estimate import estimate
    from stages.extraction.room import free_bytes

    result = estimate(extractor, manifest)
    rows = [[tap.cut, str(list(tap.shape)), f"{tap.rows:,}", byte_count(tap.size)] for tap in result.taps]
    views = extractor.cached_views
    echo(
        f"{result.images:,} images lack features"
        + (f" ({result.renderings:,} renderings, up to {views} of each)" if views > 1 else ""),
        f"measured here: {result.per_second:.0f} images/s in batches of {result.batch_size} and "
        f"{extractor.arithmetic}; each alone would do "
        f"{', '.join(f'{stage} {format_count(rate)}/s' for stage, rate in result.limits.items())}: "
        f"{min(result.limits, key=lambda stage: result.limits[stage])} limits"
        + (f" (writing is not measured: {result.not_writable})" if result.not_writable else ""),
        f"it will take {duration(result.seconds)} and {byte_count(sum(tap.size for tap in result.taps))}, of "
        f"{byte_count(free_bytes(extractor.options.cache))} that are free; no features were kept",
        table(["cut", "row", "rows", "size"], rows, left=2),
        *filter(None, [maps_in_words(extractor, len(manifest.distinct_images.keys))]),
    )
    return result

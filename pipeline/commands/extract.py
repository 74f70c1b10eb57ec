"""``extract``: stage 1 alone, in one process or in several that torchrun starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import DataError
from pipeline.commands.signature import DataFlags, Estimate, Extraction, FeatureFlags
from stages.options import Features

if TYPE_CHECKING:
    from stages.data import Manifest
    from stages.extractor import Extractor


def extract(
    *, data: DataFlags, features: FeatureFlags = Features(), out: Path | None = None, dry_run: bool = False
) -> Extraction | Estimate:
    """Run the frozen backbone once over the images and cache its features (stage 1).

    Only images the cache does not know are run; a second call does nothing and says so. Renaming, moving,
    relabelling or re-splitting images costs nothing: a feature belongs to the bytes of its image.

    Several processes may fill one cache: start the same command more than once, on one machine or on many that see
    the same folder, or let `torchrun` start it. They share the work, and whoever goes on later does what is missing.

    Try:

    ```sh
    cutpoint extract --data photos/ --backbone resnet18 --cut layer3,layer4 --dry-run
    cutpoint extract --data photos/ --backbone resnet18 --cut layer3,layer4
    torchrun --nproc-per-node=4 -m pipeline extract --data photos/
    ```

    Parameters
    ----------
    out
        Run directory to leave the manifest and the account of the extraction in.
    dry_run
        Time some batches and say what the extraction would take, in hours and gigabytes; write nothing.
    """
    from dataclasses import replace

    from pipeline.console import say
    from pipeline.extraction import extract_features, make_manifest, manifest_in_words, open_run, open_seed
    from stages.distributed import joined
    from stages.extractor import prepare

    with joined() as rank:
        features = replace(features, device=rank.device(features.device))
        extractor = prepare(features)
        seed = data.seeds[0]
        directory = None
        if out is not None and not dry_run:
            if rank.first:
                open_run(out, data, features)
            manifest, directory = rank.share(lambda: open_seed(out, data, features, seed))
        else:
            manifest = rank.share(lambda: make_manifest(data, features, seed))
            if rank.first:
                say(manifest_in_words(manifest))
        if dry_run:
            return _estimate(extractor, manifest)
        report = extract_features(extractor, manifest, directory, rank)
    if features.strict and report.skipped:
        raise DataError(f"{len(report.skipped)} images could not be read (--strict)")
    return report


def _estimate(extractor: Extractor, manifest: Manifest) -> Estimate:
    from pipeline.console import byte_count, count, duration, say, table
    from stages.estimate import estimate

    found = estimate(extractor, manifest)
    rows = [[tap.cut, str(list(tap.shape)), f"{tap.rows:,}", byte_count(tap.size)] for tap in found.taps]
    views = extractor.options.views
    say(
        f"{found.images:,} images lack features"
        + (f" ({found.renderings:,} renderings, up to {views} of each)" if views > 1 else ""),
        f"measured here: {found.per_second:.0f} images/s in batches of {found.batch_size} (decoding alone "
        f"{count(found.decode_per_second)}/s, {extractor.trunk.arithmetic} forward alone "
        f"{count(found.forward_per_second)}/s)",
        f"it will take {duration(found.seconds)} and {byte_count(sum(tap.size for tap in found.taps))}; "
        "nothing was written",
        table(["cut", "row", "rows", "size"], rows, left=2),
    )
    return found

"""``extract``: stage 1 alone."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError
from pipeline.commands.signature import DataFlags, Extraction, FeatureFlags
from stages.options import Features


def extract(*, data: DataFlags, features: FeatureFlags = Features(), out: Path | None = None) -> Extraction:
    """Run the frozen backbone once over the images and cache its features (stage 1).

    Only images the cache does not know are run; a second call does nothing and says so. Renaming, moving,
    relabelling or re-splitting images costs nothing: a feature belongs to the bytes of its image.

    Try:

    ```sh
    cutpoint extract --data photos/ --backbone resnet18 --cut layer3 --pool avg
    ```

    Parameters
    ----------
    out
        Run directory to leave the manifest and the account of the extraction in.
    """
    from pipeline.console import say
    from pipeline.methods import extract_features, make_manifest, manifest_in_words, open_run, open_seed
    from stages.extract import prepare

    extractor = prepare(features)
    seed = data.seeds[0]
    directory = None
    if out is not None:
        open_run(out, data, features)
        manifest, directory = open_seed(out, data, features, seed)
    else:
        manifest = make_manifest(data, features, seed)
        say(manifest_in_words(manifest))
    report = extract_features(extractor, manifest, directory)
    if features.strict and report.skipped:
        raise DataError(f"{len(report.skipped)} images could not be read (--strict)")
    return report

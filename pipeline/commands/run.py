"""``run``: the three stages and the comparison, in order, from one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cache.errors import DataError
from pipeline.commands.signature import Comparison, DataFlags, FeatureFlags, FinetuneFlags, HeadFlags
from stages.options import Features, Finetune, Head


def run(
    *,
    data: DataFlags,
    features: FeatureFlags = Features(),
    head: HeadFlags = Head(),
    finetune: FinetuneFlags = Finetune(),
    skip_finetune: Annotated[bool, Parameter(negative="")] = False,
    out: Path,
) -> Comparison:
    """Do it all: cache features, train heads on them, fine-tune the top blocks, compare them on the same test images.

    What a run has already is not done again: a command that was stopped goes on when it is given again, and one with
    another head, seed or --unfreeze adds to the comparison.

    Try:

    ```sh
    cutpoint run --data elpv --out runs/elpv
    cutpoint run --data photos/ --backbone resnet50 --seeds 0 1 2 --unfreeze layer4 --out runs/photos
    cutpoint run --config run.toml --epochs 12
    ```

    Parameters
    ----------
    skip_finetune
        Leave out stage 3.
    out
        Run directory for everything: configuration, manifests, heads, networks, results and report.
    """
    from pipeline.extraction import extract_features, open_run, open_seed
    from pipeline.methods import run_heads
    from pipeline.publishing import publish
    from pipeline.tuning import run_finetunings
    from stages.extractor import prepare
    from stages.finetune import require_trainable

    open_run(out, data, features, head, finetune)
    extractor = prepare(features)
    for seed in data.seeds:
        manifest, directory = open_seed(out, data, features, seed)
        if not skip_finetune:
            require_trainable(extractor, finetune, len(manifest.class_names))
        report = extract_features(extractor, manifest, directory)
        if features.strict and report.skipped:
            raise DataError(f"{len(report.skipped)} images could not be read (--strict)")
        run_heads(extractor, manifest, head.head, head, seed, directory)
        if not skip_finetune:
            run_finetunings(extractor, manifest, finetune, head, seed, directory)
    return publish([out], out)

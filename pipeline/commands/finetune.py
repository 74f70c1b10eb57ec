"""``finetune``: stage 3 alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.signature import DataFlags, FeatureFlags, FinetuneFlags, HeadFlags, Result
from stages.options import Features, Finetune, Head


def finetune(
    *,
    data: DataFlags,
    features: FeatureFlags = Features(),
    head: HeadFlags = Head(),
    finetune: FinetuneFlags = Finetune(),
    out: Path,
) -> list[Result]:
    """Train the top blocks with augmentation, starting from a stage-2 head, and test the network (stage 3).

    The head named by --start is trained on the cached features first if the run does not have it. A checkpoint is
    written after every epoch: a killed command, given again, goes on from it.

    Try:

    ```sh
    cutpoint finetune --data photos/ --unfreeze 3 --augment medium --epochs 8 --out runs/photos
    cutpoint finetune --data photos/ --backbone resnet18 --unfreeze layer4 --rate 3e-4 --out runs/photos
    ```

    Parameters
    ----------
    out
        Run directory for the network and its result.
    """
    from pipeline.methods import open_run, open_seed, run_finetune
    from stages.extractor import prepare

    extractor = prepare(features)
    open_run(out, data, features, head, finetune)
    results = []
    for seed in data.seeds:
        manifest, directory = open_seed(out, data, features, seed)
        results.append(run_finetune(extractor, manifest, finetune, head, seed, directory))
    return results

"""``finetune``: stage 3 alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
    """Train the top blocks, starting from a stage-2 head, and test the network (stage 3).

    The head named by --start is trained on the cached features first if the run does not have it. Checkpoints are
    written after every epoch and every few minutes: a killed command, given again, goes on from the last one and ends
    with the same weights. Several GPUs share the work under torchrun.

    Try:

    ```sh
    cutpoint finetune --data photos/ --unfreeze 3 --augment medium --epochs 8 --out runs/photos
    cutpoint finetune --data photos/ --backbone resnet18 --unfreeze layer4 --views 5 --from-cache --out runs/photos
    cutpoint finetune --data photos/ --unfreeze 3 --baselines scratch frozen --out runs/photos
    torchrun --nproc-per-node=4 -m pipeline finetune --data photos/ --unfreeze all --out runs/photos
    ```

    Parameters
    ----------
    out
        Run directory for the network and its result.
    """
    from pipeline.extraction import open_run, open_seed
    from pipeline.tuning import run_finetunings
    from stages.distributed import joined
    from stages.extractor import prepare
    from stages.finetune import require_trainable

    results = []
    with joined() as rank:
        extractor = prepare(replace(features, device=rank.device(features.device)))
        if rank.first:
            open_run(out, data, features, head, finetune)
        for seed in data.seeds:
            manifest, directory = rank.share(partial(open_seed, out, data, features, seed))
            require_trainable(extractor, finetune, len(manifest.class_names))
            results += run_finetunings(extractor, manifest, finetune, head, seed, directory, rank)
    return results

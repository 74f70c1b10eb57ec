"""``finetune``: stage 3 alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.cli.flags import DataFlags, FeatureFlags, FinetuneFlags, HeadFlags, OverwriteFlag, Result, TrackFlag
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig


def finetune(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: HeadFlags = HeadConfig(),
    finetune: FinetuneFlags = FinetuneConfig(),
    overwrite: OverwriteFlag = False,
    track: TrackFlag = None,
    out: Path,
) -> list[Result]:
    """Train the top blocks, starting from a stage-2 head, and test the network (stage 3).

    The head of --init-head is trained on cached features first if the run does not have it. A killed command,
    given again, goes on to the same weights. Under torchrun several GPUs share the work.

    Try:

    ```sh
    cutonce finetune --data photos/ --unfreeze 3 --augment medium --epochs 8 --name medium --out runs/photos
    cutonce finetune --data photos/ --backbone resnet18 --unfreeze layer4 --views 5 --from-cache --out runs/photos
    cutonce finetune --data photos/ --unfreeze 3 --baselines scratch uncached --out runs/photos
    torchrun --nproc-per-node=4 -m pipeline finetune --data photos/ --unfreeze all --out runs/photos
    ```

    Parameters
    ----------
    out
        Run directory for the network and its result.
    """
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.methods.finetune_methods import require_same_finetunings, run_finetunings
    from pipeline.experiment.methods.head_methods import require_heads
    from pipeline.experiment.methods.mixture import run_mixture
    from pipeline.experiment.methods.outer_test import require_no_folds
    from pipeline.experiment.methods.table_columns import note_columns_left_out
    from pipeline.experiment.setup.run_setup import init_seed, record_options, resolve_features, take_features
    from pipeline.options.trackers import require_tracker
    from pipeline.tracking.track import track_results
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.finetune import require_trainable
    from stages.runtime.distributed import process_group

    require_tracker(track)
    require_no_folds(data, "`train`")
    note_columns_left_out(head)
    results = []
    with process_group() as rank:
        features = resolve_features(data, features)
        built = build_extractor(replace(features, device=rank.device(features.device)))
        for seed in data.seeds:
            manifest, directory = rank.broadcast_from_first(
                partial(init_seed, out, data, features, seed, head, finetune)
            )
            extractor = take_features(built, manifest, out, say=rank.is_main, one_view=True)
            require_heads(extractor, manifest, finetune.heads_for(manifest.task.name), head, option="init_head")
            require_trainable(extractor, finetune, manifest, rank, balanced=head.class_weights == "balanced")
            experiment = Experiment(extractor, manifest, seed, directory, rank, data, overwrite, opens_images=True)
            require_same_finetunings(experiment, finetune, head)
            results += run_finetunings(experiment, finetune, head)
            results += rank.broadcast_from_first(partial(run_mixture, experiment, head))
            rank.broadcast_from_first(partial(record_options, out, data, features, head, finetune))
        if rank.is_main:
            track_results(track, out, results)
    return results

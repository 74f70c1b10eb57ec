"""``train``: stage 2 alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.flags import DataFlags, FeatureFlags, HeadFlags, OverwriteFlag, Result, TrackFlag
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig


def train(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: HeadFlags = HeadConfig(),
    overwrite: OverwriteFlag = False,
    track: TrackFlag = None,
    out: Path,
) -> list[Result]:
    """Train heads on cached features and test them (stage 2). No image is opened, no backbone runs; but for 32
    training images where features are not of this machine's fp32, to measure how far answers move in it.

    Settings are selected without the test split, by cross-validation on train+validation or on the validation split;
    each head is tested once.

    Try:

    ```sh
    cutonce train --data photos/ --backbone resnet18 --cut layer3 --head logistic mlp --out runs/photos
    ```

    Parameters
    ----------
    out
        Run directory for heads and results.
    """
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.methods.head_methods import require_heads
    from pipeline.experiment.methods.outer_test import run_on_features
    from pipeline.experiment.methods.table_columns import encode_columns
    from pipeline.experiment.setup.run_setup import init_seed, record_options, resolve_features, take_features
    from pipeline.options.trackers import require_tracker
    from pipeline.tracking.track import track_results
    from stages.extraction.extractor import build_extractor

    require_tracker(track)
    features = resolve_features(data, features)
    built = build_extractor(features)
    results = []
    for seed in data.seeds:
        manifest, directory = init_seed(out, data, features, seed, head)
        extractor = take_features(built, manifest, out, say=True)
        experiment = Experiment(extractor, manifest, seed, directory, data=data, overwrite=overwrite)
        names = head.heads_for(manifest.task.name)
        require_heads(extractor, manifest, names, head)
        encode_columns(manifest, head, data.target)  # what is wrong with a column is told before anything is trained
        results += run_on_features(experiment, names, head)
        record_options(out, data, features, head)
    track_results(track, out, results)
    return results

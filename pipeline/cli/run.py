"""``run``: the three stages and the comparison, in order, from one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cache.errors import DataError
from pipeline.cli.flags import (
    Comparison,
    DataFlags,
    FeatureFlags,
    FinetuneFlags,
    HeadFlags,
    OpenFlag,
    OverwriteFlag,
    TrackFlag,
)
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig


def run(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: HeadFlags = HeadConfig(),
    finetune: FinetuneFlags = FinetuneConfig(),
    skip_finetune: Annotated[bool, Parameter(negative="")] = False,
    overwrite: OverwriteFlag = False,
    track: TrackFlag = None,
    open_page: OpenFlag = False,
    out: Path,
) -> Comparison:
    """Do it all: cache features, train heads on them, fine-tune the top blocks, compare them on the same test images.

    What a run has already is not done again: a command that was stopped goes on when it is given again, and one with
    another head, seed or --unfreeze adds to the comparison. What would replace a method, or bring other images into
    the run, is refused.

    Try:

    ```sh
    cutonce run --data elpv --out runs/elpv
    cutonce run --data photos/ --backbone resnet50 --seeds 0 1 2 --unfreeze layer4 --out runs/photos
    cutonce run --config run.toml --epochs 12
    ```

    Parameters
    ----------
    skip_finetune
        Leave out stage 3.
    out
        Run directory for everything that the run leaves.
    """
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.cli.output import echo
    from pipeline.experiment.compare_runs import publish
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.methods.finetune_methods import (
        require_same_finetunings,
        run_finetunings,
        run_starting_head,
    )
    from pipeline.experiment.methods.head_methods import require_heads, require_same_features_of_heads
    from pipeline.experiment.methods.mixture import run_mixture
    from pipeline.experiment.methods.outer_test import require_no_folds, run_on_features
    from pipeline.experiment.methods.sample_rows import require_memory
    from pipeline.experiment.methods.table_columns import encode_columns
    from pipeline.experiment.setup.run_setup import (
        extract_features,
        init_seed,
        record_extraction,
        record_options,
        resolve_features,
        take_features,
    )
    from pipeline.options.trackers import require_tracker
    from pipeline.run_layout import REPORT
    from pipeline.tracking.track import track_results
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.finetune import require_trainable

    require_tracker(track)
    if not skip_finetune:
        require_no_folds(data, "--skip-finetune")
    features = resolve_features(data, features)
    built = build_extractor(features)
    for seed in data.seeds:
        manifest, directory = init_seed(out, data, features, seed, head, finetune)
        extractor = take_features(built, manifest, out)
        names = head.heads_for(manifest.task.name)
        require_heads(extractor, manifest, names, head)
        if not skip_finetune:
            require_heads(extractor, manifest, finetune.heads_for(manifest.task.name), head, option="init_head")
            require_trainable(extractor, finetune, manifest, balanced=head.class_weights == "balanced")
        encode_columns(manifest, head, data.target)  # what is wrong with a column is told before images are extracted
        experiment = Experiment(extractor, manifest, seed, directory, data=data, overwrite=overwrite, opens_images=True)
        require_same_features_of_heads(experiment, names, head)
        if not skip_finetune:
            require_same_finetunings(experiment, finetune, head)
        for needed in require_memory(extractor, manifest, names, head):
            echo(f"note: {needed}")
        report = extract_features(extractor, manifest, directory)
        if features.strict and report.skipped:
            raise DataError(f"{len(report.skipped)} images could not be read (--strict)")
        if not skip_finetune:
            run_starting_head(experiment, finetune, head, names)
        run_on_features(experiment, names, head)
        if not skip_finetune:
            run_finetunings(experiment, finetune, head)
        if not data.tests_each_sample:
            run_mixture(experiment, head)
        record_extraction(directory, report, extractor, manifest)
        record_options(out, data, features, head, finetune)
    comparison = publish([out], out, manifest.task.primary)
    track_results(track, out, comparison.results)
    if open_page:
        open_in_browser(out / REPORT)
    return comparison

"""``lr-find``: the range test of stage 3, alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.flags import DataFlags, FeatureFlags, FinetuneFlags, HeadFlags, LRFinderResult
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig


def lr_find(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: HeadFlags = HeadConfig(),
    finetune: FinetuneFlags = FinetuneConfig(),
    each_block: bool = False,
    out: Path,
) -> list[LRFinderResult]:
    """Find a learning rate for fine-tuning by a range test; nothing is trained that is kept (stage 3).

    The rate rises from step to step while the loss is watched, on a copy of the network. Suggested is the rate at
    which the loss falls most steeply. Takes the options of `finetune`, and says what to give it.

    Try:

    ```sh
    cutonce lr-find --data photos/ --unfreeze 3 --augment medium --out runs/photos
    cutonce lr-find --data photos/ --unfreeze 3 --each-block --out runs/photos
    ```

    Parameters
    ----------
    each_block
        Test the head and every block that trains by itself, the others at the rate they are given.
    out
        Run directory; the plot is left in it as range-test.png.
    """
    from pipeline.cli.output import echo
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.finetune_methods import format_lr_suggestion, run_lr_finder
    from pipeline.experiment.head_methods import require_heads
    from pipeline.experiment.run_setup import init_run, init_seed, resolve_features
    from pipeline.run_layout import RANGE_TEST
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.finetune import require_trainable

    features = resolve_features(data, features)
    extractor = build_extractor(features)
    init_run(out, data, features, head, finetune)
    manifest, directory = init_seed(out, data, features, data.seeds[0], head)
    require_heads(extractor, manifest, finetune.heads_for(manifest.task.name), option="init_head")
    require_trainable(extractor, finetune, manifest)
    tests = run_lr_finder(
        Experiment(extractor, manifest, data.seeds[0], directory, data=data), finetune, head, each_block=each_block
    )
    for test in tests:
        block_text = f"{test.block}: " if test.block else ""
        echo(f"{block_text}{format_lr_suggestion(test, 'unfreeze other layers')}")
    echo(f"plot: {directory / RANGE_TEST}")
    return tests

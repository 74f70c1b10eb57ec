"""``lr-find``: the range test of stage 3, alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.flags import DataFlags, FeatureFlags, FinetuneFlags, HeadFlags, LRFinderResult, OpenFlag
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
    open_page: OpenFlag = False,
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
        Test the head and every block that trains by itself, while the others do not.
    out
        Run directory for lr-find.html; the plot is left in it as range-test.png too.
    """
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.cli.output import echo
    from pipeline.experiment.experiment import Experiment
    from pipeline.experiment.methods.finetune_methods import format_lr_suggestions, run_lr_finder, with_rates
    from pipeline.experiment.methods.head_methods import require_heads
    from pipeline.experiment.setup.run_setup import init_seed, resolve_features, take_features
    from pipeline.options.command_line import invocation
    from pipeline.report.lr_find import LRFinderReport, write_lr_finder
    from pipeline.run_layout import RANGE_TEST
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.finetune import require_trainable
    from stages.finetuning.transfer_model import HEAD
    from stages.runtime.provenance import provenance

    features = resolve_features(data, features)
    extractor = build_extractor(features)
    manifest, directory = init_seed(out, data, features, data.seeds[0], head, finetune)
    extractor = take_features(extractor, manifest, out, say=True, one_view=True)
    require_heads(extractor, manifest, finetune.heads_for(manifest.task.name), head, option="init_head")
    require_trainable(extractor, finetune, manifest, balanced=head.class_weights == "balanced")
    experiment = Experiment(extractor, manifest, data.seeds[0], directory, data=data)
    tests = run_lr_finder(experiment, finetune, head, each_block=each_block)
    suggestions = [
        f"{f'{test.block}: ' if test.block else ''}{suggestion}"
        for test, suggestion in zip(tests, format_lr_suggestions(tests, "unfreeze other layers"), strict=True)
    ]
    topmost = next((test for test in tests if test.block != HEAD), None)
    rates = {
        "head_lr" if test.block == HEAD else "lr": float(f"{test.suggestion:.1e}")
        for test in tests
        if test.suggestion is not None and (test.block == HEAD or test is topmost)
    }
    changed = {name: f"{rate:.1e}" for name, rate in rates.items()}
    name = with_rates(experiment, finetune, head, rates).name
    changed |= {} if name is None else {"name": name}
    report = LRFinderReport(
        tests,
        suggestions,
        data.data,
        f"{extractor.backbone.name}, {finetune.unfreeze} unfrozen",
        invocation("finetune", data, features, head, finetune, **changed, out=out) if rates else "",
        list(dict.fromkeys([*manifest.notes, *extractor.notes])),
        provenance(manifest.digest),
    )
    page = write_lr_finder(report, out)
    echo(*suggestions, f"plot: {directory / RANGE_TEST}", f"report: {page}")
    if open_page:
        open_in_browser(page)
    return tests

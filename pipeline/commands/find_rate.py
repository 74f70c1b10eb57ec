"""``find-rate``: the range test of stage 3, alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.signature import DataFlags, FeatureFlags, FinetuneFlags, HeadFlags, RangeTest
from stages.options import Features, Finetune, Head


def find_rate(
    *,
    data: DataFlags,
    features: FeatureFlags = Features(),
    head: HeadFlags = Head(),
    finetune: FinetuneFlags = Finetune(),
    each_block: bool = False,
    out: Path,
) -> list[RangeTest]:
    """Find a learning rate for fine-tuning by a range test; nothing is trained that is kept (stage 3).

    The rate rises from step to step while the loss is watched, on a copy of the network. Suggested is the rate at
    which the loss falls most steeply. Takes the options of `finetune`, and says what to give it.

    Try:

    ```sh
    cutpoint find-rate --data photos/ --unfreeze 3 --augment medium --out runs/photos
    cutpoint find-rate --data photos/ --unfreeze 3 --each-block --out runs/photos
    ```

    Parameters
    ----------
    each_block
        Test the head and every block that trains by itself, the others at the rate they are given.
    out
        Run directory; the plot is left in it as range-test.png.
    """
    from pipeline.console import say
    from pipeline.extraction import open_run, open_seed
    from pipeline.tuning import RANGE_TEST, find_rates, found_in_words
    from stages.extractor import prepare
    from stages.finetune import require_trainable

    extractor = prepare(features)
    open_run(out, data, features, head, finetune)
    manifest, directory = open_seed(out, data, features, data.seeds[0])
    require_trainable(extractor, finetune, len(manifest.class_names))
    tests = find_rates(extractor, manifest, finetune, head, data.seeds[0], directory, each_block=each_block)
    for test in tests:
        which = f"{test.block}: " if test.block else ""
        say(f"{which}{found_in_words(test, 'unfreeze other layers')}")
    say(f"plot: {directory / RANGE_TEST}")
    return tests

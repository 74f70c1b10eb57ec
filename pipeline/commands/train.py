"""``train``: stage 2 alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.commands.signature import DataFlags, FeatureFlags, HeadFlags, Result
from stages.options import Features, Head


def train(*, data: DataFlags, features: FeatureFlags = Features(), head: HeadFlags = Head(), out: Path) -> list[Result]:
    """Train heads on cached features and test them (stage 2). No image is opened, no backbone runs.

    Settings are selected without the test split, by cross-validation on train+validation or on the validation split;
    each head is tested once.

    Try:

    ```sh
    cutpoint train --data photos/ --backbone resnet18 --cut layer3 --head logistic mlp --out runs/photos
    ```

    Parameters
    ----------
    out
        Run directory for heads and results.
    """
    from pipeline.extraction import open_run, open_seed
    from pipeline.methods import run_heads
    from stages.extractor import prepare

    extractor = prepare(features)
    open_run(out, data, features, head)
    results = []
    for seed in data.seeds:
        manifest, directory = open_seed(out, data, features, seed)
        results += run_heads(extractor, manifest, head.head, head, seed, directory)
    return results

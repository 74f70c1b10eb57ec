"""``best``: the best method for the time there is."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.cli.flags import Comparison, DataFlags, FeatureFlags, HeadFlags, OpenFlag, OverwriteFlag
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig


def best(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: HeadFlags = HeadConfig(),
    budget: str | None = None,
    trials: int | None = None,
    replay: Path | None = None,
    max_predict_ms: float | None = None,
    overwrite: OverwriteFlag = False,
    open_page: OpenFlag = False,
    out: Path,
) -> Comparison:
    """Search for the best method within a budget: features of all depths once, then trial after trial, the cheap first.

    Heads are tried on sets of depths by cross-validation, then mirror images, larger ones and the other networks of the
    family that are installed, heads that train in epochs, and last fine-tuning, if a learning curve says that it could
    win. All heads that do the task are tried, or those of `--head`; several `--seeds` are several commands. After every
    trial there is an answer; the ensemble of all heads is among what it is chosen from. Ctrl-C ends it with the answer
    so far, and the same command goes on. No test image has a say in anything.

    Try:

    ```sh
    cutonce best --data photos/ --budget 10m --out runs/best
    cutonce best --data photos/ --budget 1h30m --max-predict-ms 20 --out runs/best
    cutonce best --data photos/ --replay runs/best --out runs/again
    ```

    Parameters
    ----------
    budget
        How long it may take: 90s, 3m, 1h30m (default: 10m).
    trials
        In place of a budget of time, how many trials there are: as many give the same bits each time.
    replay
        A run of this command whose trials are to be made again, with the same options, to the same bits.
    max_predict_ms
        Methods that take longer to predict an image, as measured here from its bytes on, are not taken.
    out
        Run directory for everything that the search leaves.
    """
    from cache.errors import UsageError
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.experiment.best.budget import Budget, parse_budget
    from pipeline.experiment.best.run_best import BestOptions, run_best
    from pipeline.run_layout import REPORT

    limits = {"--budget": budget, "--trials": trials, "--replay": replay}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: give one of them; it says how long the search goes on")
    if trials is not None and trials < 1:
        raise UsageError(f"--trials {trials} must be at least 1")
    if max_predict_ms is not None and not 0 < max_predict_ms < math.inf:
        raise UsageError(f"--max-predict-ms {max_predict_ms:g} must be more than 0, and finite")
    if trials is None and replay is None:
        allowed = Budget(parse_budget("10m" if budget is None else budget))
    else:
        allowed = Budget(trials=math.inf if trials is None else trials)
    asked = BestOptions(allowed, replay, max_predict_ms)
    comparison, interrupted = run_best(data, features, head, asked, out, overwrite=overwrite)
    if interrupted:
        raise KeyboardInterrupt
    if open_page:
        open_in_browser(out / REPORT)
    return comparison

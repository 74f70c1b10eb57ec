"""``ensemble``: trained methods of one or several runs averaged, whatever network each stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipeline.cli.flags import OpenFlag, Result


def ensemble(
    run: Path,
    /,
    *others: Path,
    members: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    class_weights: Literal["none", "balanced"] = "none",
    open_page: OpenFlag = False,
) -> list[Result]:
    """Average trained methods of runs on the same data: heads on other layers, image sizes or networks, and tuned ones.

    Weights are chosen out of folds, or, with a fine-tuned member, which has none, on the validation split. Nothing is
    trained, and no image is opened; `predict` then runs each network once. The page of the first run is made anew.

    Try:

    ```sh
    cutonce ensemble runs/photos
    cutonce ensemble runs/photos-224 runs/photos-300
    cutonce ensemble runs/photos --members linear-logistic finetune-top-3
    ```

    Parameters
    ----------
    run
        Run directory, in which the ensemble is left.
    others
        Further runs on the same data, splits and seeds.
    members
        The folder names of the methods to choose from, in any of the runs (default: all heads on features and all
        fine-tuned networks; of these greedy selection takes those that help).
    class_weights
        balanced: rare classes count as much as frequent ones when weights are chosen.
    """
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.experiment.compare_runs import publish
    from pipeline.experiment.methods.mixture import make_mixtures
    from pipeline.run_layout import REPORT
    from stages.config.heads import HeadConfig

    results = make_mixtures([run, *others], members, HeadConfig(class_weights=class_weights))
    publish([run], run)
    if open_page:
        open_in_browser(run / REPORT)
    return results

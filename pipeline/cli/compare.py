"""``compare``: table, plots and page from finished results."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.flags import Comparison, OpenFlag
from stages.config.feature_map import FeatureMapKind


def compare(
    *runs: Path,
    metric: str | None = None,
    feature_map: FeatureMapKind = "pca",
    out: Path | None = None,
    open_page: OpenFlag = False,
) -> Comparison:
    """Compare finished results: print the table, write the page. Nothing is trained or extracted again.

    Try:

    ```sh
    cutonce compare runs/photos
    cutonce compare runs/resnet18 runs/resnet50
    cutonce compare runs/photos --metric f1_macro --out runs/photos-f1
    ```

    Parameters
    ----------
    runs
        Run directories with finished results on the same test images.
    metric
        What methods are ranked and tested by (default: what the first result was). Settings stay as they were chosen.
    feature_map
        How the page draws the features of the test images as points: pca, or umap, which needs `pip install
        'umap-learn>=0.5'` and takes longer.
    out
        Where results.json, predictions.csv, the plots and report.html go (default: the run; of several runs a folder
        beside the first, named after all, as runs/resnet18+resnet50).
    """
    from cache.errors import UsageError
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.experiment.compare_runs import publish
    from pipeline.run_layout import REPORT, comparison_dir

    if not runs:
        raise UsageError("compare needs at least one run directory, as in `compare runs/photos`")
    out = out if out is not None else comparison_dir(runs)
    comparison = publish(list(runs), out, metric, feature_map)
    if open_page:
        open_in_browser(out / REPORT)
    return comparison

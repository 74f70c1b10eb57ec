"""``compare``: table, plots and page from finished results."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.flags import Comparison, OpenFlag


def compare(*runs: Path, metric: str | None = None, out: Path | None = None, open_page: OpenFlag = False) -> Comparison:
    """Compare finished results: print the table, write the page. Nothing is computed again.

    Try:

    ```sh
    cutonce compare runs/photos
    cutonce compare runs/resnet18 runs/resnet50 --out runs/both
    cutonce compare runs/photos --metric f1_macro --out runs/photos-f1
    ```

    Parameters
    ----------
    runs
        Run directories with finished results on the same test images.
    metric
        What methods are ranked and tested by (default: what the first result was). Settings stay as they were chosen.
    out
        Where results.json, predictions.csv, the plots and report.html go (default: the first run).
    """
    from cache.errors import UsageError
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.experiment.compare_runs import publish
    from pipeline.run_layout import REPORT

    if not runs:
        raise UsageError("compare needs at least one run directory, as in `compare runs/photos`")
    out = out if out is not None else runs[0]
    comparison = publish(list(runs), out, metric)
    if open_page:
        open_in_browser(out / REPORT)
    return comparison

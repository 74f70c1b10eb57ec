"""``evaluate``: trained methods of a run on another labelled data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pipeline.cli.flags import Evaluation, OpenFlag


def evaluate(
    run: Path,
    /,
    *,
    data: str,
    method: str | None = None,
    seed: int | None = None,
    split: Annotated[
        str | None, Parameter(help="Take one split of the source: train, val or test (default: all).")
    ] = None,
    seen: Literal["refuse", "leave-out", "keep"] = "refuse",
    unknown: Literal["refuse", "leave-out"] = "refuse",
    target: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    images: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    folders: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    ignore_label: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())] = (),
    group_by: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    exact_spec: Annotated[bool, Parameter(negative="")] = False,
    open_page: OpenFlag = False,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> Evaluation:
    """Test trained methods of a run on another labelled data set: another hospital, another camera, next year.

    Every metric with its interval, the page, and the difference from the run's own test split. Classes are matched by
    name. Nothing is chosen by these samples: the run has settled which method to take.

    Try:

    ```sh
    cutonce evaluate runs/photos --data photos-2027/
    cutonce evaluate runs/scans --data other-hospital.csv --group-column patient --method linear-logistic
    ```

    Parameters
    ----------
    run
        Run directory.
    data
        Labelled images: what --data of run takes. How samples and targets are read is as in the run, where no option
        says otherwise.
    method
        One trained method by a name that the page has for it: linear-svm, svm or SVM (default: every one).
    seed
        The seed whose models are tested (default: every one).
    seen
        Samples that the run has in its splits, told by their bytes: refuse (those of training and validation),
        leave-out (all of them) or keep.
    unknown
        Samples of classes that the run does not know: refuse or leave-out.
    target
        Columns of a table that hold the targets, where they are not called as in the run.
    images
        Columns of a table that hold the images of a sample, in the order of the run's, where they are not called as
        there.
    folders
        What the folders in a folder are, where their names do not say it: classes, or the split of each one, as dev=val
        unlabeled=none (none leaves it out).
    ignore_label
        What masks hold, besides 255 and what the run leaves out by its name, where no class is known: a number, a
        color, or the name of a class.
    group_by
        Which images are of one subject, where that is not as in the run.
    group_column
        Column of a table that says of which subject an image is, where it is not that of the run.
    name
        What the evaluation is called (default: as the data).
    out
        Where results, predictions, plots and report.html go (default: evaluations/NAME in the run).
    cache
        Where features of the new images are kept (default: the cache of the run).
    exact_spec
        Compute features where the cache lacks them, though a complete one of another precision or decoder is there.
    """
    from cache.errors import UsageError
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.experiment.evaluate_run import EvaluationOptions, default_out, evaluate_run
    from pipeline.run_layout import REPORT

    if name is not None and out is not None:
        raise UsageError("`name` calls a folder in the run, and `out` is another one: give one of them")
    given: dict[str, Any] = {
        "target": target,
        "images": images,
        "folders": folders,
        "ignore_label": ignore_label,
        "group_by": group_by,
        "group_column": group_column,
    }
    given = {option: value for option, value in given.items() if value not in (None, ())}
    if "group_by" in given or "group_column" in given:  # one takes the place of the other
        given = {"group_by": "auto", "group_column": None, **given}
    options = EvaluationOptions(method, seed, split, seen, unknown, device, cache, exact_spec)
    out = default_out(run, data, name) if out is None else out
    evaluation = evaluate_run(run, data, given, options, out)
    if open_page:
        open_in_browser(out / REPORT)
    return evaluation

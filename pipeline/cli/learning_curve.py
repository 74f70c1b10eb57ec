"""``learning-curve``: whether more labels would help."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError, UsageError
from pipeline.cli.flags import CurveReport, DataFlags, FeatureFlags, OpenFlag
from stages.config.features import FeatureConfig


def learning_curve(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    head: str = "ridge",
    draws: int = 5,
    open_page: OpenFlag = False,
    out: Path,
) -> CurveReport:
    """Measure the score against the number of training images, and say whether more labels would help.

    A head is trained on cached features of more and more training images, several stratified draws of each number, and
    judged on the validation split by --metric. A power law through the scores says what 2, 4 and 10
    times as many images would bring, and how sure that is. Missing features are extracted first; the test split is not
    touched.

    Try:

    ```sh
    cutonce learning-curve --data photos/ --out runs/photos
    cutonce learning-curve --data photos/ --backbone resnet50 --head logistic --draws 10 --out runs/photos
    ```

    Parameters
    ----------
    head
        What is trained: ridge, which is the quickest by far, or any other that `train --head` takes.
    draws
        Times that each number of images is drawn.
    out
        Run directory for learning-curve.html, .json, .csv, .png and .svg.
    """
    import numpy as np

    from pipeline.cli.opened_page import open_in_browser
    from pipeline.cli.output import echo
    from pipeline.experiment.setup.run_setup import extract_features, init_seed, resolve_features, take_features
    from pipeline.report.learning_curve import CurveReport, write_curve
    from stages.config.heads import HeadConfig
    from stages.extraction.extractor import build_extractor
    from stages.extraction.read_features import drop_unreadable, read_features
    from stages.fitting.feature_rows import FeatureRows
    from stages.fitting.problem import FitProblem
    from stages.inspection.extrapolation import extrapolate
    from stages.inspection.learning_curve import measure_curve
    from stages.inspection.sample_scores import require_rising
    from stages.runtime.provenance import provenance

    if draws < 2:
        raise UsageError(f"--draws {draws} must be at least 2: what differs between them is the uncertainty")
    options = HeadConfig(head=(head,), scalers=("standard",))
    features = resolve_features(data, features)
    extractor = build_extractor(features)
    seed = data.seeds[0]
    all_samples, _ = init_seed(out, data, features, seed)
    require_rising(all_samples.task)
    samples = all_samples.select(np.flatnonzero(np.array(all_samples.splits) != "test"))
    extractor = take_features(extractor, samples)
    extraction = extract_features(extractor, samples, None)
    if features.strict and extraction.skipped:
        raise DataError(f"{len(extraction.skipped)} images could not be read (--strict)")
    samples = drop_unreadable(extractor, samples)

    def rows(split: str) -> FeatureRows:
        part = samples.select(samples.indices(split))
        return FeatureRows(read_features(extractor, part), part.targets, groups=part.group_numbers)

    problem = FitProblem(rows("train"), rows("val"), samples.task, options, seed, extractor.device)
    curve = measure_curve(head, problem, draws)
    notes = [*all_samples.notes, *extractor.notes]
    notes += [f"not readable: {location}: {reason}" for location, reason in extraction.skipped]
    report = CurveReport(
        curve,
        extrapolate(curve, seed),
        head,
        provenance(all_samples.digest),
        data.data,
        f"{extractor.backbone.name} at {extractor.cut_names}",
        list(dict.fromkeys(notes)),
    )
    page = write_curve(report, out)
    echo("", report.table, "", *report.answer, "", f"report: {page}")
    if open_page:
        open_in_browser(page)
    return report

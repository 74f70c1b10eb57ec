"""``inspect``: what is wrong with the data."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError
from pipeline.cli.flags import DataFlags, FeatureFlags, Inspection, OpenFlag
from stages.config.features import FeatureConfig


def inspect(
    *,
    data: DataFlags,
    features: FeatureFlags = FeatureConfig(),
    threshold: float = 0.98,
    open_page: OpenFlag = False,
    out: Path,
) -> Inspection:
    """Find likely label errors, near-duplicates within and across splits, outliers, and how the classes are balanced.

    All of it comes from cached features, of which missing ones are extracted first. Nothing is changed: read the page,
    then mend the data. Label errors and the balance are of one class a sample; masks are compared with what linear
    heads on maps say that saw none of them; the rest is of any task. An image that stands in two of the given splits,
    which other commands refuse, is reported here.

    Label errors need `pip install 'cleanlab>=2.9'`.

    Try:

    ```sh
    cutonce inspect --data photos/ --out runs/photos
    cutonce inspect --data photos/ --backbone resnet50 --threshold 0.99 --out runs/photos
    ```

    Parameters
    ----------
    threshold
        Cosine of the centred features from which on two images are near-duplicates; 1 finds exact copies alone.
    out
        Run directory for inspect.html and issues.csv.
    """
    from dataclasses import asdict, replace

    from pipeline.cli.opened_page import open_in_browser
    from pipeline.cli.output import echo
    from pipeline.experiment.probes.inspect_masks import inspect_masks
    from pipeline.experiment.setup.run_setup import extract_features, init_seed, resolve_features, take_features
    from pipeline.report.inspection import TABLE, InspectionReport, write_inspection
    from stages.data.pixel_quality import find_poor_images
    from stages.extraction.extractor import build_extractor
    from stages.extraction.read_features import drop_unreadable, read_features
    from stages.inspection.class_balance import Balance
    from stages.inspection.inspect import FeatureTable, inspect_features, needs_cleanlab, require_threshold
    from stages.inspection.label_errors import require_cleanlab

    require_threshold(threshold)
    given, features = features, resolve_features(data, features, maps=False)
    extractor = build_extractor(features)
    seed = data.seeds[0]
    manifest, directory = init_seed(out, data, features, seed, allow_leakage=True)
    if needs_cleanlab(manifest.task):
        require_cleanlab()
    extractor = take_features(extractor, manifest)
    extraction = extract_features(extractor, manifest, directory)
    if features.strict and extraction.skipped:
        raise DataError(f"{len(extraction.skipped)} images could not be read (--strict)")
    notes = [*manifest.notes, *extractor.notes]
    notes += [f"not readable: {location}: {reason}" for location, reason in extraction.skipped]
    manifest = drop_unreadable(extractor, manifest).by_image()
    table = FeatureTable(
        read_features(extractor, manifest),
        manifest.targets,
        manifest.splits,
        manifest.keys,
        manifest.task,
        manifest.groups,
    )
    inspection = inspect_features(table, seed, threshold=threshold, device=extractor.device)
    if manifest.task.reads == "image":
        errors = inspect_masks(resolve_features(replace(data, allow_leakage=True), given), manifest, inspection, seed)
        few = [] if errors is not None else ["masks are not compared with a model: there are too few images, or groups"]
        inspection = replace(inspection, mask_errors=errors, notes=[*inspection.notes, *few])
    backbone = f"{extractor.backbone.name} at {extractor.cut_names}"
    balance = Balance.of_task(manifest.task, manifest.targets, manifest.splits)
    poor_images = find_poor_images(manifest.locations, extractor.reading, extractor.threads)
    report = InspectionReport(
        manifest, inspection, balance, threshold, data.data, backbone, notes, asdict(features), poor_images
    )
    page = write_inspection(report, out)
    echo("", *report.lines, *(f"note: {note}" for note in inspection.notes), "", f"all of them: {out / TABLE}")
    echo(f"report: {page}")
    if open_page:
        open_in_browser(page)
    return inspection

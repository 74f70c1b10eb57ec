"""``zoo``: which networks there are, and which suit one's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cache.errors import UsageError
from pipeline.cli.flags import DataFlags, Networks
from stages.config.data import DataConfig
from stages.config.features import CropMode, FeatureConfig, PrecisionChoice

if TYPE_CHECKING:
    from stages.inspection.backbone_ranking import Suggestion
    from stages.network.backbones.catalog import CatalogEntry

_SEVERAL = Parameter(consume_multiple=True, negative_iterable=())


def zoo(
    *,
    search: str = "",
    sort: Literal["accuracy", "parameters", "multiply-adds", "pixels", "name"] = "accuracy",
    rows: int = 20,
    here: Annotated[bool, Parameter(negative="")] = False,
    measure: int = 0,
    update: Annotated[bool, Parameter(negative="")] = False,
    results: str | None = None,
    csv: Path | None = None,
    json: Path | None = None,
    suggest: Annotated[bool, Parameter(negative="")] = False,
    data: DataFlags | None = None,
    backbone: Annotated[tuple[str, ...], _SEVERAL] = (),
    sample_size: int = 300,
    image_size: int | str | None = None,
    crop_mode: CropMode = "center",
    precision: PrecisionChoice | None = None,
    cache: Path = FeatureConfig.cache,
    device: str = "auto",
) -> Networks:
    """List all networks there are, or find those that suit your images.

    Of each: published top-1 accuracy on ImageNet, parameters, multiply-adds for one image, the side of its images, the
    license of its weights, and whether these are here or would be downloaded. What nobody published is left empty.
    Accuracies of timm's networks are in a table of timm's, which --update fetches.

    With --suggest, candidates are compared on some hundred of your images: a ridge head on the features of each, cross-
    validated, and what they cost. The test split has no part in it.

    Try:

    ```sh
    cutonce zoo
    cutonce zoo --update
    cutonce zoo --search "vit small" --sort multiply-adds --measure 3
    cutonce zoo --here --csv networks.csv
    cutonce zoo --suggest --data photos/
    cutonce zoo --suggest --data photos/ --backbone resnet18 timm:convnext_nano efficientnet_lite0
    ```

    Parameters
    ----------
    search
        Only networks whose names hold all of these words.
    sort
        Best accuracy first, or the smallest first; what is not known comes last.
    rows
        How many are printed; 0 for all.
    here
        Only networks whose weights are on this machine.
    measure
        Run this many of the first ones, with random weights, and say how many images they take in a second.
    update
        Fetch timm's table of accuracies, and keep it in ~/.cache/cutonce.
    results
        URL or file of that table, for --update.
    csv
        File for the table, of all that match, with plain numbers.
    json
        File for the same as JSON.
    suggest
        Compare networks on the images of --data.
    backbone
        The candidates of --suggest (default: all whose weights are here).
    sample_size
        Images that --suggest looks at.
    image_size
        Side of the square the networks see, in pixels, with --suggest and --measure (default: each one's own).
    crop_mode
        What they see of an image, with --suggest: its middle, or all of it.
    precision
        Their arithmetic, with --suggest and --measure.
    cache
        Folder of the feature cache, with --suggest: a later extraction finds the features there.
    device
        auto, cpu, cuda, cuda:1, mps; with --suggest and --measure.
    """
    if results is not None and not update:
        raise UsageError("--results says where --update finds timm's table: give --update too")
    if suggest != (data is not None):
        raise UsageError("--suggest compares networks on the images of `data`: give both, or neither")
    if rows < 0 or measure < 0 or sample_size < 20:
        raise UsageError("--rows and --measure must be at least 0, and --sample-size at least 20")
    if backbone and not suggest:
        raise UsageError("`backbone` names the candidates of --suggest; --search finds networks by their names")
    from pipeline.cli.output import echo
    from pipeline.report.networks import catalog_records, catalog_table, write_records

    features = FeatureConfig(
        image_size=image_size, crop_mode=crop_mode, precision=precision, cache=cache, device=device
    )
    if data is not None:
        from pipeline.report.networks import SuggestionReport

        report = SuggestionReport(_suggestion(data, features, backbone, sample_size), data, features)
        echo(*report.lines)
        write_records(report.records, csv, json)
        return report.suggestion
    from pipeline.experiment.probes.networks import list_networks, measure_networks, with_counts
    from stages.network.backbones.catalog import find_entries, sort_entries
    from stages.network.backbones.timm_results import RESULTS_URL, update_results

    if update:
        table = update_results(results or RESULTS_URL)
        echo(f"{len(table.results):,} results of timm's networks from {table.source}, {table.date}")
    entries = sort_entries(find_entries(list_networks(), search, only_here=here), sort)
    shown = with_counts(entries[: rows or None])
    entries = [*shown, *entries[len(shown) :]]
    rates, failed = measure_networks([entry.name for entry in shown[:measure]], features)
    echo(catalog_table(shown, rates), "", *_notes(entries, len(shown)))
    echo(*(f"not measured: {name}: {reason}" for name, reason in failed.items()))
    write_records(catalog_records(entries, rates), csv, json)
    return entries


def _suggestion(data: DataConfig, features: FeatureConfig, candidates: Sequence[str], sample_size: int) -> Suggestion:
    """Compare candidates, by default every network whose weights are here, on some samples of the data."""
    from pipeline.cli.output import echo
    from pipeline.experiment.probes.networks import list_networks
    from pipeline.experiment.probes.suggest_backbones import choose_samples, suggest_backbones
    from pipeline.experiment.setup.run_setup import format_manifest, make_manifest, resolve_features
    from stages.network.backbones.catalog import find_entries

    candidates = candidates or [entry.name for entry in find_entries(list_networks(), only_here=True)]
    features = resolve_features(data, features)
    seed = data.seeds[0]
    manifest = make_manifest(data, features, seed)
    samples = choose_samples(manifest, sample_size, seed)
    echo(f"seed {seed}: {format_manifest(manifest)}", f"candidates: {', '.join(candidates)}")
    return suggest_backbones(candidates, samples, features, seed, len(manifest.distinct_images.keys))


def _notes(entries: Sequence[CatalogEntry], shown: int) -> list[str]:
    """Return what there is to say of a table of the first so many of these networks."""
    from stages.network.backbones.timm_results import read_results

    notes = []
    if shown < len(entries):
        notes.append(f"{shown} of {len(entries):,} networks; --rows 0 prints all, --search finds some")
    if not entries:
        notes.append("no network has such a name")
    table = read_results()
    if table is None and any(entry.name.startswith("timm:") for entry in entries):
        notes.append("accuracies of timm's networks: --update fetches them")
    elif table is not None:
        notes.append(f"accuracies of timm's networks: {table.source}, {table.date}")
    return notes

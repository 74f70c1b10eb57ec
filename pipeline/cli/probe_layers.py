"""``probe-layers``: which layer to cut at."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError, UsageError
from pipeline.cli.flags import DataFlags, FeatureFlags, LayerProbe, OpenFlag
from stages.config.features import FeatureConfig

_NOTES = 20
"""Most notes that are printed; probe.json has all."""


def probe_layers(
    *, data: DataFlags, features: FeatureFlags = FeatureConfig(), open_page: OpenFlag = False, out: Path | None = None
) -> LayerProbe:
    """Find the layer to cut at: a ridge head on the output of each block, compared on the validation split.

    One forward pass over the images caches the pooled outputs of all blocks, each in a cache of its own, so that a
    second call, and any later `train --cut` at one of them, runs no backbone. With --cut layers of your own choice,
    separated by commas, these are compared instead. The test split is not read.

    Recommended is the best cut by --metric, or the cheapest that is not told apart from it: within one
    standard error of the difference on the same images, and no more than 2 points below it.

    Where each pixel has a class, the maps of blocks are cached unpooled, and a linear head on each, and on sets of
    them, is trained for a few epochs; recommended may then be a set.

    Try:

    ```sh
    cutonce probe-layers --data photos/ --backbone resnet18
    cutonce probe-layers --data photos/ --backbone resnet18 --cut layer2,layer3,layer4 --seeds 0 1 2 --out runs/cuts
    ```

    Parameters
    ----------
    out
        Run directory for probe.html, probe.csv, probe.json and the plot.
    """
    from pipeline.cli.opened_page import open_in_browser
    from pipeline.cli.output import echo
    from pipeline.experiment.probes.probe_layers import probe_cuts, require_vector_cuts
    from pipeline.experiment.probes.probe_maps import probe_map_cuts, require_map_cuts
    from pipeline.experiment.setup.run_setup import (
        format_manifest,
        init_seed,
        make_manifest,
        resolve_features,
        take_features,
    )
    from pipeline.report.layer_probe import ProbeReport, write_probe
    from pipeline.text import duration, once_for_all_seeds
    from stages.extraction.extract import extract
    from stages.extraction.extractor import build_extractor
    from stages.inspection.sample_scores import require_rising
    from stages.runtime.provenance import provenance

    if open_page and out is None:
        raise UsageError("--open opens the page that is written to --out: give one")
    features = resolve_features(data, features)
    extractor = build_extractor(_with_cuts(features))
    manifests = []
    for seed in data.seeds:
        if out is not None:
            manifest, _ = init_seed(out, data, features, seed)
        else:
            manifest = make_manifest(data, features, seed)
            echo(f"seed {seed}: {format_manifest(manifest)}")
        require_rising(manifest.task, on_maps=True)
        manifests.append((seed, manifest))
    on_maps = manifests[0][1].task.reads == "image"
    (require_map_cuts if on_maps else require_vector_cuts)(extractor)
    extractor = take_features(extractor, manifests[0][1])
    extraction = extract(extractor, manifests[0][1])
    took = f"in {duration(extraction.seconds)}; {extraction.hits} were in the cache already"
    echo(
        f"{extraction.backbone} ({extraction.weights}): {len(extractor.taps)} cuts in one pass",
        f"extracted {extraction.extracted} images {took}"
        if extraction.extracted
        else f"nothing to do: all {extraction.hits} images are in the cache",
    )
    notes = [note for _, manifest in manifests for note in manifest.notes] + extractor.notes
    notes += [f"not readable: {location}: {reason}" for location, reason in extraction.skipped]
    if features.views > 1:
        notes.append(f"--views {features.views} is for heads that train in epochs; the probe sees the evaluation view")
    if features.strict and extraction.skipped:
        raise DataError(f"{len(extraction.skipped)} images could not be read (--strict)")
    probe = (probe_map_cuts if on_maps else probe_cuts)(extractor, manifests)
    origin = provenance(manifests[0][1].digest)
    report = ProbeReport(probe, extractor, data, once_for_all_seeds(notes), out, origin)
    already_said = set(once_for_all_seeds(note for _, manifest in manifests for note in manifest.notes))
    new_notes = [note for note in report.notes if note not in already_said]
    echo(
        *(f"note: {note}" for note in new_notes[:_NOTES]),
        *([f"and {more} more"] if (more := len(new_notes) - _NOTES) > 0 else []),
    )
    echo("", report.table, "", *report.verdict, "", "go on with:")
    echo(*(f"  {command}  # {purpose}" for purpose, command in report.commands))
    if out is not None:
        page = write_probe(report, out)
        echo("", f"report: {page}")
        if open_page:
            open_in_browser(page)
    return report.probe


def _with_cuts(features: FeatureConfig) -> FeatureConfig:
    """Return the options with the cuts to probe, and the evaluation view alone."""
    from dataclasses import replace

    from stages.network.backbones.registry import load_backbone
    from stages.network.graph.cuts import CutGraph
    from stages.network.graph.map_cuts import MAPS, map_cuts_to_probe
    from stages.network.graph.probe_points import cuts_to_probe

    if features.taps:
        raise UsageError(
            "--taps: the probe compares the outputs of layers one by one, which --cut names; what several depths are "
            "worth together, the heads of `train --taps blocks` say"
        )
    if features.cut not in ("auto", MAPS):
        return replace(features, views=1)
    # what there is to cut does not depend on the weights
    bare = load_backbone(features.backbone, "none", features.image_size)
    graph = CutGraph(bare.module, bare.preprocessing.image_size)
    cuts = map_cuts_to_probe(graph) if features.cut == MAPS else cuts_to_probe(graph, features.pool)
    return replace(features, views=1, cut=",".join(cut.name for cut in cuts))

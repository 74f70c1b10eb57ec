"""Rows of samples of several images for heads: one for each sample, or all images in a bag; and their memory."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cache.atomic_write import atomic_path
from cache.errors import UsageError
from pipeline.experiment.experiment import Experiment
from pipeline.run_layout import IMAGE_WEIGHTS
from pipeline.text import byte_count
from stages.config.data import SPLITS
from stages.config.head_registry import find_head
from stages.config.heads import HeadConfig, HeadName
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import fitted_aggregate, places_of, read_bags, read_features
from stages.fitting.feature_rows import AnyFeatureRows, FeatureRows, in_batches
from stages.fitting.fit_head import needs_memory
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.base import Head
from stages.runtime.device import free_memory


def takes_bags(name: HeadName) -> bool:
    """Return whether a head takes all images of a sample, and not one row for it."""
    return find_head(name).rows == "bag"


def allowed_memory(options: HeadConfig) -> float:
    """Return the bytes that features may take."""
    if options.max_memory_gb is not None:
        return options.max_memory_gb * 1e9
    return free_memory(torch.device("cpu")) / 2


def feature_bytes(extractor: Extractor, manifest: Manifest) -> int:
    """Return what the cached rows of samples of one image take, those of training views among them."""
    numbers = extractor.row_numbers if manifest.task.reads == "image" else math.prod(extractor.row_shape)
    rows = len(manifest) + (extractor.options.views - 1) * len(manifest.indices("train"))
    return rows * numbers * extractor.taps[0].cache.dtype.itemsize


def require_memory(
    extractor: Extractor, manifest: Manifest, names: Sequence[HeadName], options: HeadConfig
) -> list[str]:
    """Refuse samples of so many images that their rows find no room in memory, before anything is computed.

    Returns
    -------
    list of str
        What each head that takes all images of all samples needs, in words; of samples of one image each, which are
        streamed, which of the named heads cannot take them so.

    Raises
    ------
    UsageError
        With the bytes that are needed and those that are allowed, and what helps.
    """
    allowed, said = allowed_memory(options), []
    if not manifest.images:
        size = feature_bytes(extractor, manifest)
        of_depths = extractor.tap_layout is not None
        unable = [name for name in options.head if needs_memory(name, of_depths=of_depths)]
        if size <= allowed or not unable:
            return []
        return [
            f"the features will take {byte_count(size)}, of which `max_memory_gb` allows {byte_count(allowed)}: `head` "
            f"{' '.join(unable)} will be refused, as it needs all of them in memory. Nothing of them is lost then"
        ]
    for name in names:
        places, bags = places_of(manifest), takes_bags(name)
        width = extractor.row_shape[0]
        number_bytes = np.dtype(extractor.options.storage_dtype).itemsize if bags else np.dtype(np.float32).itemsize
        row_numbers = places * (width + 1) if bags else places * width if options.aggregate == "concat" else width
        rows = len(manifest) + (extractor.options.views - 1) * len(manifest.indices("train"))
        needed = rows * row_numbers * number_bytes
        if needed > allowed:
            kind = f"`head` {name}" if bags else f"`aggregate` {options.aggregate}"
            helps = "`aggregate` mean or max" if bags or options.aggregate == "concat" else "a narrower `cut`"
            raise UsageError(
                f"{kind} needs all of {rows:,} samples in memory, and the largest has {places:,} images; such rows are "
                f"not streamed: {byte_count(needed)}, of which `max_memory_gb` allows {byte_count(allowed)}. Take "
                f"fewer images of each (`frames`), {helps}, or allow more"
            )
        if bags:
            said.append(
                f"`head` {name} keeps {len(manifest):,} samples of up to {places:,} images in memory: "
                f"{byte_count(needed)}, of which `max_memory_gb` allows {byte_count(allowed)}"
            )
    return said


def load_samples(
    experiment: Experiment, options: HeadConfig, name: HeadName
) -> tuple[tuple[FeatureRows, FeatureRows, FeatureRows], Aggregate | None]:
    """Return the rows of train, validation and test for a head, and what made them of images; None where it takes all.

    Raises
    ------
    UsageError
        If they find no room in memory, or heads on vectors are to learn how images are aggregated.
    """
    extractor, manifest = experiment.extractor, experiment.manifest
    require_memory(extractor, manifest, [name], options)
    train = experiment.split("train")
    places = places_of(manifest)
    aggregate = None
    if not takes_bags(name):
        if options.aggregate == "attention":
            raise UsageError("`aggregate` attention is learned by the head mil alone; take mean, max or concat")
        aggregate = fitted_aggregate(extractor, train, options.aggregate, places)

    def read(part: Manifest, view: int = 0) -> NDArray[np.floating]:
        if aggregate is None:
            return read_bags(extractor, part, view, places)
        return read_features(extractor, part, view, aggregate)

    features = read(manifest)
    numbers = manifest.group_numbers
    rows = []
    for split in SPLITS:
        indices = manifest.indices(split)
        groups = None if numbers is None else numbers[indices]
        augmented = [read(train, view) for view in range(1, extractor.options.views)] if split == "train" else []
        rows.append(FeatureRows(features[indices], manifest.targets[indices], augmented, groups))
    return (rows[0], rows[1], rows[2]), aggregate


def asked_about_samples(head: Head, aggregate: Aggregate | None) -> Head:
    """Return a head as it is saved: one on aggregated rows with what makes these of the images of a sample."""
    return head if aggregate is None else AggregatedHead(aggregate, head)


def aggregate_settings(aggregate: Aggregate | None) -> dict[str, Any]:
    """Return how the images of a sample became a row, as settings; nothing where they did not."""
    return {} if aggregate is None else {"aggregate": aggregate.kind}


def save_image_weights(directory: Path, head: nn.Module, test: Manifest, rows: AnyFeatureRows) -> None:
    """Write how much each image of each test sample counts, where the head says it."""
    weights_of = getattr(head, "image_weights", None)
    if weights_of is None:
        return
    with torch.no_grad():
        weights = torch.cat([weights_of(torch.from_numpy(block).float()) for _, block in in_batches(rows)])
    with (
        atomic_path(directory / IMAGE_WEIGHTS) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["key", "path", "place", "image", "weight"])
        for key, location, views, row in zip(test.keys, test.locations, test.images, weights.tolist(), strict=True):
            writer.writerows(
                (key, location, place, image.location, f"{row[place]:.6f}")
                for place, image in enumerate(views)
                if image is not None
            )

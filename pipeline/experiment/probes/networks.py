"""The catalog of networks with what is counted and measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cache.errors import CutonceError
from stages.config.features import FeatureConfig
from stages.extraction.extractor import build_extractor
from stages.extraction.speed import images_per_second
from stages.network.backbones.catalog import CatalogEntry
from stages.network.backbones.counts import Counts, count_network, known_counts, remember_counts
from stages.network.backbones.registry import network_catalog
from stages.runtime.progress import progress


def list_networks() -> list[CatalogEntry]:
    """Return every network that can be listed, with what is published of it or was counted before."""
    counts = known_counts()
    return [entry.with_counts(counts) for entry in network_catalog()]


def with_counts(entries: Sequence[CatalogEntry]) -> list[CatalogEntry]:
    """Return the entries with parameters and multiply-adds: what is not known is counted, and remembered."""
    counted: dict[str, Counts] = {}
    unknown = {entry.counted_as: entry.name for entry in entries if entry.counted_as and not entry.is_counted}
    if unknown:
        for key, name in progress(unknown.items(), label="count", unit="networks"):
            counts = count_network(name)
            if counts is not None:
                counted[key] = counts
        remember_counts(counted)
    return [entry.with_counts(counted) for entry in entries]


def measure_networks(names: Sequence[str], features: FeatureConfig) -> tuple[dict[str, float], dict[str, str]]:
    """Return the images per second of networks with random weights, and why others could not be measured.

    Parameters
    ----------
    names
    features
        Options of stage 1, whatever their backbone and weights.
    """
    rates, failed = {}, {}
    for name in progress(names, label="measure", unit="networks"):
        try:
            rates[name] = images_per_second(build_extractor(replace(features, backbone=name, weights="none")))
        except CutonceError as error:
            failed[name] = str(error)
    return rates, failed

"""Stage 1: manifest + backbone + cut -> cache. The trunk runs once over each image that the cache does not know."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache import FeatureCache, Spec
from cache.errors import CacheError, DataError
from stages.data import DECODER, Manifest, stream
from stages.machine import keep_freed_memory, resolve_device
from stages.network.backbones import Backbone, load_backbone
from stages.network.cut import Cut, CutGraph
from stages.network.pooling import Pool
from stages.options import Features
from stages.progress import progress

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Extractor:
    """What turns an image into a cached feature: the trunk up to the cut, with its pooling, and the cache of its rows.

    Attributes
    ----------
    backbone : Backbone
    graph : CutGraph
    cut : Cut
    trunk : nn.Module
        Normalised images [b, 3, S, S] -> pooled features [b, *row_shape]; evaluation mode, frozen.
    row_shape : tuple of int
        Shape of one feature.
    cache : FeatureCache
    device : torch.device
    options : Features
    """

    backbone: Backbone
    graph: CutGraph
    cut: Cut
    trunk: nn.Module
    row_shape: tuple[int, ...]
    cache: FeatureCache
    device: torch.device
    options: Features

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return the features, float32 [b, *row_shape], of rendered images, uint8 [b, 3, S, S]."""
        inputs = self.backbone.preprocessing.normalise(images.to(self.device, non_blocking=True))
        with self.autocast():
            rows: Tensor = self.trunk(inputs.contiguous(memory_format=torch.channels_last))
        return rows.float()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the trunk computes in the precision asked for."""
        dtype = _AUTOCAST.get(self.options.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


@dataclass(frozen=True)
class Extraction:
    """What stage 1 did: counts of distinct images, time, and what could not be read.

    Attributes
    ----------
    samples, hits, extracted : int
        Distinct readable images in the manifest, those already in the cache, those run through the trunk now.
    skipped : list of (location, reason)
        Images that could not be read.
    seconds : float
        Wall time of this call.
    total_seconds : float
        What extracting these features cost when it was done, now or earlier.
    """

    backbone: str
    weights: str
    cut: str
    row_shape: tuple[int, ...]
    fingerprint: str
    samples: int
    hits: int
    extracted: int
    skipped: list[tuple[str, str]]
    seconds: float
    total_seconds: float
    size_on_disk: int

    @property
    def images_per_second(self) -> float:
        """Images through the trunk per second of this call; 0 where all were in the cache."""
        return self.extracted / self.seconds if self.extracted else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the rate, as JSON values."""
        return {**asdict(self), "images_per_second": self.images_per_second}


def prepare(options: Features) -> Extractor:
    """Load the backbone, cut it, and name the cache its features belong to. No image is touched."""
    keep_freed_memory()
    device = resolve_device(options.device)
    backbone = load_backbone(options.backbone, options.weights, options.image_size)
    graph = CutGraph(backbone.module, backbone.preprocessing.image_size)
    cut = graph.resolve(options.cut)
    pool = Pool(options.pool, cut)
    trunk = nn.Sequential(graph.section(None, cut), pool).eval().requires_grad_(False)
    trunk.to(memory_format=torch.channels_last)
    spec = Spec(
        backbone=backbone.name,
        weights=backbone.weights,
        cut=cut.name,
        pooling=pool.kind,
        preprocessing=backbone.preprocessing.to_json(),
        views=None,
        precision=options.precision,
        dtype=options.dtype,
        decoder=DECODER,
    )
    return Extractor(
        backbone=backbone,
        graph=graph,
        cut=cut,
        trunk=trunk.to(device),
        row_shape=pool.shape,
        cache=FeatureCache(options.cache, spec),
        device=device,
        options=options,
    )


def extract(extractor: Extractor, manifest: Manifest) -> Extraction:
    """Bring the cache up to date with the manifest: each unknown image goes through the trunk once.

    What is finished stays, whatever ends the call: rows are on disk shard by shard, and a second call does only what
    is missing. An image that cannot be read is listed with its reason and not tried again under this spec.

    Raises
    ------
    DataError
        If not one image could be read.
    CacheError
        If the cache cannot be written.
    """
    started = time.perf_counter()
    cache = extractor.cache
    wanted = list(dict.fromkeys(manifest.keys))
    missing = cache.missing(wanted)
    known = len(cache.rejected().keys() & set(wanted))
    if missing:
        _run_trunk(extractor, missing, dict(zip(manifest.keys, manifest.locations, strict=True)))
    rejected = cache.rejected()
    readable = [key for key in wanted if key not in rejected]
    skipped = skipped_samples(manifest, rejected)
    if not readable:
        first = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"none of the {len(skipped)} images could be read{first}")
    return Extraction(
        backbone=extractor.backbone.name,
        weights=extractor.backbone.weights_source,
        cut=extractor.cut.name,
        row_shape=extractor.row_shape,
        fingerprint=cache.spec.fingerprint,
        samples=len(readable),
        hits=len(wanted) - len(missing) - known,
        extracted=len(missing) - (len(wanted) - len(readable) - known),
        skipped=skipped,
        seconds=time.perf_counter() - started,
        total_seconds=cache.seconds(readable),
        size_on_disk=cache.size_on_disk,
    )


def skipped_samples(manifest: Manifest, rejected: dict[str, str]) -> list[tuple[str, str]]:
    """Return (location, reason) of every image of the manifest that has no feature because it could not be read."""
    undecodable = [
        (location, rejected[key])
        for location, key in zip(manifest.locations, manifest.keys, strict=True)
        if key in rejected
    ]
    return [*manifest.unreadable, *undecodable]


def read_features(extractor: Extractor, manifest: Manifest) -> NDArray[Any]:
    """Return the cached features, [n, *row_shape] in the storage type, of the manifest's samples in its order.

    Raises
    ------
    CacheError
        If some are not in the cache; says how many, and the command that extracts them.
    """
    missing = extractor.cache.missing(manifest.keys)
    if missing:
        first = manifest.locations[manifest.keys.index(missing[0])]
        raise CacheError(
            f"{len(missing)} of {len(manifest.keys)} images have no cached features for {extractor.backbone.name} "
            f"at {extractor.cut.name} in {extractor.options.cache} (first: {first}); "
            "run `extract` with the same --data, --backbone, --cut, --pool and --cache first"
        )
    return np.asarray(extractor.cache.read(manifest.keys))


def readable_samples(extractor: Extractor, manifest: Manifest) -> Manifest:
    """Return the manifest without the samples stage 1 found unreadable."""
    rejected = extractor.cache.rejected()
    return manifest.select([index for index, key in enumerate(manifest.keys) if key not in rejected])


def decoding_threads(options: Features) -> int:
    """Return how many threads decode ahead: as asked, or one per core up to eight."""
    return options.workers if options.workers is not None else min(os.cpu_count() or 1, 8)


def _run_trunk(extractor: Extractor, keys: list[str], location_of: dict[str, str]) -> None:
    """Stream the images of `keys` through the trunk into the cache."""
    locations = [location_of[key] for key in keys]
    render = extractor.backbone.preprocessing.render
    workers = decoding_threads(extractor.options)
    bar = progress(label="extract", total=len(keys), unit="images")
    unreadable: dict[str, str] = {}
    try:
        with bar, extractor.cache.writer() as writer:
            before = time.perf_counter()
            for batch in stream(locations, render, extractor.options.batch_size, workers):
                unreadable.update({keys[index]: reason for index, reason in batch.failures})
                if len(batch.indices):
                    rows = extractor.features(batch.images).cpu().numpy()
                    now = time.perf_counter()
                    writer.append([keys[index] for index in batch.indices], rows, seconds=now - before)
                    before = now
                bar.update(len(batch.indices) + len(batch.failures))
    finally:
        if unreadable:
            extractor.cache.reject(unreadable)

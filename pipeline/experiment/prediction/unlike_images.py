"""What tells images that are unlike those a method was trained on, made of the features that its head is given.

A head on cached features takes them from the cache, and all heads of an experiment share them. What was fine-tuned
computes other ones, so some of the training images, and the validation images, go through it once more. Of a sample of
several images it is the mean of theirs. A head on columns alone sees no image, and has no detector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.experiment.experiment import Experiment
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.extraction.read_features import read_features
from stages.finetuning.predict_images import read_vectors, vectors_of
from stages.finetuning.transfer_model import TransferModel
from stages.inspection.unlike import HELD_OUT, REFERENCES, UnlikeDetector

_BLOCK_ROWS = 256
"""Samples whose rows are in memory at a time, which may be maps."""

TUNED_HELD_OUT = 1000
"""Validation images that go through a fine-tuned network for the level, at most."""


def detector_of_features(experiment: Experiment) -> UnlikeDetector:
    """Return the detector for heads on the cached features of an experiment, of readable samples."""
    return _fitted(experiment, lambda manifest: cached_vectors(experiment.extractor, manifest), HELD_OUT)


def cached_vectors(extractor: Extractor, manifest: Manifest) -> NDArray[np.float32]:
    """Return what the detector compares of samples whose features are cached, float32 [n, d], read in blocks."""
    as_vectors, samples = vectors_of(extractor), range(len(manifest))
    parts = (manifest.select(samples[start : start + _BLOCK_ROWS]) for start in samples[::_BLOCK_ROWS])
    blocks = (torch.from_numpy(read_features(extractor, part)) for part in parts)
    return np.concatenate([as_vectors(block.float()).numpy() for block in blocks])


def detector_of_network(experiment: Experiment, upper: TransferModel) -> UnlikeDetector:
    """Return the detector for a fine-tuned network."""
    return _fitted(experiment, lambda manifest: read_vectors(experiment.extractor, upper, manifest), TUNED_HELD_OUT)


def _fitted(experiment: Experiment, read: Callable[[Manifest], NDArray[np.float32]], held_out: int) -> UnlikeDetector:
    train, val = (
        _drawn(experiment.split(split), most, experiment.seed)
        for split, most in (("train", REFERENCES), ("val", held_out))
    )
    return UnlikeDetector.fit(read(train), read(val))


def _drawn(manifest: Manifest, most: int, seed: int) -> Manifest:
    """Return so many of the samples at most, drawn by `seed`, in their order."""
    if len(manifest) <= most:
        return manifest
    indices = np.sort(np.random.default_rng(seed).choice(len(manifest), most, replace=False))
    return manifest.select(indices.tolist())

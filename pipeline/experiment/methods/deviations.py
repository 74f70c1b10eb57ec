"""How far the answers of a head move where features are computed in another way than those that it was trained on.

A head that was trained on features of a server, in bf16 and decoded by its GPU, predicts on a laptop in fp32. What that
makes of its answers is measured where it is trained, on some training images, and kept with the model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.errors import UsageError
from pipeline.evaluation.decision import class_names_of
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.models.model_card import Deviation
from pipeline.experiment.models.model_store import open_model
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor, with_precision
from stages.extraction.read_features import read_features
from stages.extraction.stand_in import Way, way_of
from stages.finetuning.transfer_model import TransferModel
from stages.network.graph.trunk import ARITHMETIC, Precision, precision_of
from stages.network.heads.base import Head
from stages.tasks.base import Task, TensorBatch
from stages.training.losses import logits_of

IMAGES = 32
"""Training images on which it is measured."""

FP32: Precision = "fp32"
"""Which every machine computes in."""

_MULTIPLY_ADDS = 2e9
"""Of one image, above which it is measured on one batch of them at most: it may cost seconds, not minutes."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class RowsOfWay:
    """Rows of the same images, as they are cached and as they are computed now, [n, d]."""

    trained: Way
    computed: Way
    cached: NDArray[np.floating]
    now: NDArray[np.floating]

    def deviation(self, head: Head, task: Task) -> Deviation:
        """Return how far the answers of a head are apart."""
        before, after = (_outputs(head, rows) for rows in (self.cached, self.now))
        return _deviation(self.trained, self.computed, before, after, task)


def _deviation(trained: Way, computed: Way, before: Tensor, after: Tensor, task: Task) -> Deviation:
    """Return how far outputs before activation are apart, [n, out_features]."""
    images, logits = len(after), _largest(before, after)
    scale = float(before.where(before.isfinite(), 0).abs().max())
    answers = [task.activate(outputs) for outputs in (before, after)]
    known = logits if math.isfinite(logits) else None
    if not class_names_of(task) and not getattr(task, "levels", ()):
        values = [torch.from_numpy(task.values(answer)) for answer in answers]
        return Deviation(trained, computed, images, known, scale, _largest(*values), None)
    first, second = ([task.decode(predicted) for predicted in task.predict(answer)] for answer in answers)
    changed = sum(one != other for one, other in zip(first, second, strict=True))
    return Deviation(trained, computed, images, known, scale, _largest(*answers), changed)


_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], list[RowsOfWay]]] = WeakKeyDictionary()
"""What was computed of a trunk: all heads on the same features share it."""


def deviations_of(experiment: Experiment, head: Head, task: Task) -> list[Deviation]:
    """Return how far a head's answers for training images move in each other way; none where nothing was measured.

    Measured are: what the command itself would compute, where it has images open anyway or the features are others;
    the precision of the features, as far as this machine has it; and fp32 with images that the CPU decodes, which every
    machine can do.

    Parameters
    ----------
    experiment : Experiment
        Of one vector for each image; of maps, and of samples of several images, nothing is measured.
    head : Head
        Features of an image -> outputs.
    task : Task
    """
    return [rows.deviation(head, task) for rows in _rows_of_ways(experiment)]


def deviations_of_network(experiment: Experiment, tuned: TransferModel, directory: Path, task: Task) -> list[Deviation]:
    """Return how far a fine-tuned network's answers move where its frozen part computes in fp32; none where it did.

    Parameters
    ----------
    experiment : Experiment
    tuned : TransferModel
    directory : Path
        Where it is saved.
    task : Task
    """
    extractor, train = experiment.extractor, experiment.split("train")
    if extractor.trunk.precision == FP32 or train.images or task.reads == "image":
        return []
    backbone = extractor.backbone if extractor.backbone.handed_in else None
    _, other, in_fp32 = open_model(directory, str(extractor.device), backbone, precision=FP32)
    sample = _sampled(extractor, train)
    outputs = []
    for there, upper in ((extractor, tuned), (other, in_fp32)):
        requests = there.evaluation_requests(sample.locations)
        compute = there.launched(upper.rows, upper.logits_of, images=len(sample))
        batches = [batch.rows[0] for batch in there.run_batches(requests, compute, 1) if batch.indices]
        outputs.append(torch.from_numpy(np.concatenate(batches)))
    ways = [Way(there.trunk.arithmetic, there.reading.decoder) for there in (extractor, other)]
    return [_deviation(ways[0], ways[1], outputs[0], outputs[1], task)]


def _rows_of_ways(experiment: Experiment) -> list[RowsOfWay]:
    extractor, train = experiment.extractor, experiment.split("train")
    if experiment.fold or train.images or experiment.task.reads == "image" or len(extractor.row_shape) > 1:
        return []
    sample = _sampled(extractor, train)
    known = _KNOWN.setdefault(extractor.trunk, {})
    asked = (extractor.options.cache, extractor.fingerprint, experiment.opens_images, *sample.keys)
    if asked not in known:
        known[asked] = _compute(extractor, sample, experiment.opens_images)
    return known[asked]


def _sampled(extractor: Extractor, train: Manifest) -> Manifest:
    """Return some training images, those with the first keys: whatever the order of the images, they are the same."""
    dear = extractor.graph.cuts[-1].multiply_adds_below > _MULTIPLY_ADDS
    count = min(IMAGES, extractor.batch_size) if dear else IMAGES
    places = {key: place for place, key in enumerate(train.keys)}
    return train.select([places[key] for key in sorted(places)[:count]])


def _compute(extractor: Extractor, sample: Manifest, opens_images: bool) -> list[RowsOfWay]:
    trained, computed = way_of(extractor), list[RowsOfWay]()
    for there in _computing(extractor):
        way = _way_computed(there)
        if way == trained and not opens_images:
            continue
        places, rows = _rows_now(there, sample.locations)
        if not places:
            _LOG.info(
                "note: how far answers move where features are computed in another way is not measured: the training "
                "images cannot be read"
            )
            return []
        computed.append(RowsOfWay(trained, way, read_features(extractor, sample.select(places)), rows))
    return computed


def _way_computed(extractor: Extractor) -> Way:
    """Return the way in which an extractor computes, whatever it reads."""
    return Way(extractor.arithmetic, extractor.reading.decoder)


def _computing(extractor: Extractor) -> Iterator[Extractor]:
    """Yield what computes rows on this machine, each way once: in the features' precision first, and in fp32 last."""
    is_plain = not extractor.reading.nvjpeg
    known: set[Way] = set()
    for precision in (precision_of(way_of(extractor).precision), None, FP32):
        there = extractor
        if precision is not None and not (is_plain and extractor.arithmetic == ARITHMETIC[precision]):
            try:
                there = with_precision(extractor, precision)
            except UsageError:  # this machine does not compute so
                continue
        if _way_computed(there) not in known:
            known.add(_way_computed(there))
            yield there


def _rows_now(extractor: Extractor, locations: Sequence[str]) -> tuple[list[int], NDArray[np.floating]]:
    """Return which images can be read, and their rows as they would be read from a cache, computed now."""
    places: list[int] = []
    rows: list[NDArray[np.floating]] = []
    for batch in extractor.run_batches(extractor.evaluation_requests(locations), extractor.mean_rows, 1):
        places += batch.indices
        rows += [np.concatenate(batch.rows, axis=1)] if batch.indices else []
    return places, np.concatenate(rows) if rows else np.empty((0, *extractor.row_shape), np.float32)


def _outputs(head: Head, rows: NDArray[np.floating]) -> Tensor:
    weights = next(chain(head.parameters(), head.buffers()), torch.empty(0))
    with torch.inference_mode():
        return logits_of(head(torch.from_numpy(rows).float().to(weights.device))).float().cpu()


def _largest(first: TensorBatch, second: TensorBatch) -> float:
    """Return the largest difference; 0 of what is the same, infinite or not."""
    assert isinstance(first, Tensor), "of images as a whole"
    assert isinstance(second, Tensor)
    return float(torch.where(first == second, 0, (first - second).abs()).max())

"""What a transferred network answers for images: the mean over the renderings that it is tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.config.augment_grammar import TTA
from stages.data.augment.tta import TestTimeAugmentation
from stages.data.image_stream import ImageRequest
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.finetuning.image_batches import require_readable
from stages.finetuning.transfer_model import TransferModel
from stages.network.aggregate import padded
from stages.network.heads.aggregated import AggregatedHead
from stages.runtime.progress import progress
from stages.tasks.base import Task

_IMAGES_AT_ONCE = 2048
"""Images whose features are in memory at a time while samples are predicted."""


class PredictedBatch(NamedTuple):
    """What was answered for the next images.

    Attributes
    ----------
    indices : list of int
        Which of the images, ascending.
    activated : float32 [n, out_features]
        What the task makes of the network's outputs: probabilities, or values.
    failures : list of (index, reason)
        Images that could not be read.
    """

    indices: list[int]
    activated: NDArray[np.float32]
    failures: list[tuple[int, str]]


def iter_predictions(
    extractor: Extractor,
    upper: TransferModel,
    task: Task,
    locations: Sequence[str],
    tta: TTA = "none",
    label: str = "predict",
) -> Iterator[PredictedBatch]:
    """Yield what a network answers for images, in order, with a progress bar.

    Parameters
    ----------
    task
        What makes probabilities of its logits.
    tta
        Test-time augmentation: the renderings whose activated outputs are averaged; ``none`` is the evaluation view
        alone.
    """
    renderings = TestTimeAugmentation(extractor.backbone.preprocessing, tta)
    count = renderings.count
    requests = (ImageRequest(location, renderings, extractor.reading) for location in locations)
    pending: list[NDArray[np.float32]] = []  # a batch may end between two renderings of an image
    indices: list[int] = []
    with progress(label=label, total=len(locations), unit="images") as bar:
        for batch in extractor.run_batches(requests, partial(upper.activated, task=task), count):
            pending += [rows.astype(np.float32, copy=False) for rows in batch.rows]
            indices += batch.indices
            complete = len(indices) // count * count
            if complete or batch.failures:
                rows = np.concatenate(pending) if pending else np.empty((0, 1), np.float32)
                yield PredictedBatch(indices[:complete:count], renderings.average(rows[:complete]), batch.failures)
                pending, indices = [rows[complete:]] if len(rows) > complete else [], indices[complete:]
            bar.update(complete // count + len(batch.failures))


def iter_sample_predictions(
    extractor: Extractor, upper: TransferModel, task: Task, samples: Sequence[Sequence[str | None]]
) -> Iterator[PredictedBatch]:
    """Yield what a network answers for samples of several images, some at a time, in order, with a progress bar.

    Parameters
    ----------
    upper
        Its head takes bags; see ``stages.network.aggregate``.
    samples : sequence of sequence of str or None
        Where the images of each are; None is a view that is missing.

    Yields
    ------
    PredictedBatch
        Its `indices` are those of samples of which an image can be read; its `failures` have the number of an image
        among all that there are, sample after sample.
    """
    model, head = upper.model.eval(), upper.model.head
    # views side by side have the places that the head was fitted to; more than these it refuses
    fitted_places = head.aggregate.places if isinstance(head, AggregatedHead) else 1
    places = max(fitted_places, *map(len, samples))

    def features(images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            rows: Tensor = model.pool(model.top(upper.frozen(upper.normalize(images))))
        return [rows]

    first_image = 0
    with progress(label="predict", total=len(samples), unit="samples") as bar:
        for part in _parts_of_images(samples):
            there = [
                (index, place, location)
                for index in part
                for place, location in enumerate(samples[index])
                if location is not None
            ]
            requests = extractor.evaluation_requests(location for _, _, location in there)
            batches = list(extractor.run_batches(requests, features, 1))
            failures = [(first_image + number, reason) for batch in batches for number, reason in batch.failures]
            read = [there[number] for batch in batches for number in batch.indices]
            indices = sorted({index for index, _, _ in read})
            if read:
                rows = torch.from_numpy(np.concatenate([batch.rows[0] for batch in batches if batch.indices]))
                sizes = [sum(index == other for index, _, _ in read) for other in indices]
                bags = padded(rows.float(), sizes, [place for _, place, _ in read], places)
                with torch.inference_mode():
                    activated = task.activate(head(bags.to(extractor.device)))
                assert isinstance(activated, Tensor)
                yield PredictedBatch(indices, activated.cpu().numpy(), failures)
            elif failures:
                yield PredictedBatch([], np.empty((0, 1), np.float32), failures)
            first_image += len(there)
            bar.update(len(part))


def _parts_of_images(samples: Sequence[Sequence[str | None]]) -> Iterator[range]:
    """Yield samples that follow each other, with some thousand images in all."""
    start = images = 0
    for index, sample in enumerate(samples):
        if images and images + len(sample) > _IMAGES_AT_ONCE:
            yield range(start, index)
            start, images = index, 0
        images += len(sample)
    if start < len(samples):
        yield range(start, len(samples))


def predict_proba(
    extractor: Extractor, upper: TransferModel, manifest: Manifest, tta: TTA = "none"
) -> NDArray[np.float32]:
    """Return what the task makes of outputs, float32 [n, out_features], for a manifest's images, which can all be read.

    Raises
    ------
    DataError
        If one cannot be read any more.
    """
    probabilities = []
    for batch in iter_predictions(extractor, upper, manifest.task, manifest.locations, tta, label="evaluate"):
        require_readable(manifest, batch.failures)
        probabilities.append(batch.activated)
    return np.concatenate(probabilities)

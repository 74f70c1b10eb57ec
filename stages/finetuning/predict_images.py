"""What a transferred network answers for images: the mean over the renderings that it is tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.config.augment_grammar import TTA
from stages.data.augment.tta import TestTimeAugmentation
from stages.data.image_stream import ImageRequest, RequestedViews
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.finetuning.image_batches import require_readable
from stages.finetuning.predicted_batch import PredictedBatch
from stages.finetuning.sample_views import ComputedSample, complete_samples, join_samples, present
from stages.finetuning.transfer_model import TransferModel
from stages.network.graph.pooling import Pool
from stages.runtime.progress import progress
from stages.tasks.base import Task


def vectors_of(extractor: Extractor) -> Callable[[Tensor], Tensor]:
    """Return what makes a vector of the features of each image that a head is given: [b, *row_shape] -> [b, d].

    Of a row of taps it is the deepest block: lengths of many depths together say nothing, and a thousand whole rows,
    which are kept to compare others with, take fifty megabytes.
    """
    if extractor.tap_layout is not None:
        deepest = extractor.tap_layout.blocks[-1].width
        return lambda rows: rows[:, -deepest:]
    if len(extractor.taps) > 1 and any(len(tap.shape) > 1 for tap in extractor.taps):
        return extractor.map_layout.vectors
    if len(extractor.row_shape) == 1:
        return lambda rows: rows
    return Pool("avg", extractor.cut)


def _requests(
    extractor: Extractor, renderings: TestTimeAugmentation, locations: Sequence[str]
) -> Iterator[ImageRequest]:
    mirrored = renderings.mirrored
    views = None if mirrored is None else RequestedViews(renderings.preprocessing, mirrored)
    for location in locations:
        yield ImageRequest(location, renderings, extractor.reading, views=views, renderings=renderings.count)


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
    requests = _requests(extractor, renderings, locations)
    as_vectors = vectors_of(extractor)

    def answer(of_images: Tensor) -> list[Tensor]:
        activated, rows = upper.activated_of(of_images, task)
        return [activated, as_vectors(rows[:, upper.own_columns]).float()]

    compute = extractor.launched(upper.rows, answer, images=len(locations) * count)
    pending: list[list[NDArray[np.float32]]] = []  # a batch may end between two renderings of an image
    indices: list[int] = []
    with progress(label=label, total=len(locations), unit="images") as bar:
        for batch in extractor.run_batches(requests, compute, count):
            if batch.rows:
                pending.append([rows.astype(np.float32, copy=False) for rows in batch.rows])
            indices += batch.indices
            complete = len(indices) // count * count
            if complete or batch.failures:
                empty = [np.empty((0, 1), np.float32)] * 2
                activated, vectors = [np.concatenate(parts) for parts in zip(*pending, strict=True)] or empty
                yield PredictedBatch(
                    indices[:complete:count],
                    renderings.average(activated[:complete]),
                    batch.failures,
                    vectors[:complete:count],
                )
                pending = [[activated[complete:], vectors[complete:]]] if len(activated) > complete else []
                indices = indices[complete:]
            bar.update(complete // count + len(batch.failures))


def iter_sample_predictions(
    extractor: Extractor,
    upper: TransferModel,
    task: Task,
    samples: Sequence[Sequence[str | None]],
    tta: TTA = "none",
    label: str = "predict",
) -> Iterator[PredictedBatch]:
    """Yield what a network answers for samples of several images, in order, with a progress bar.

    An image that cannot be read is missing from its sample. A sample of which none can be read is not among `indices`.
    `failures` have the numbers of images among all that there are, sample after sample.

    Parameters
    ----------
    task, tta
        As for `iter_predictions`: in each rendering of a sample all of its images are rendered in that way.
    samples
        Where the images of each sample are, by their places; None for a view that is missing.
    """
    renderings = TestTimeAugmentation(extractor.backbone.preprocessing, tta)
    count = renderings.count
    locations = [location for views in samples for _, location in present(views)]
    requests = _requests(extractor, renderings, locations)
    compute = extractor.launched(upper.rows, images=len(locations) * count)

    def rows() -> Iterator[tuple[list[int], Tensor, list[tuple[int, str]]]]:
        for batch in extractor.run_batches(requests, compute, count):
            of_images = torch.from_numpy(batch.rows[0].astype(np.float32, copy=False)) if batch.rows else torch.empty(0)
            yield batch.indices, of_images, batch.failures
            bar.update(len(batch.indices) // count + len(batch.failures))

    with progress(label=label, total=len(locations), unit="images") as bar:
        for complete in complete_samples(rows(), samples, count):
            there = [sample for sample in complete if sample.rows]
            activated = [
                upper.answer(join_samples(there, extractor.batch_size, number), task)
                for number in range(count if there else 0)
            ]
            of_samples = torch.stack(activated, dim=1).flatten(0, 1).numpy() if there else np.empty((0, 1), np.float32)
            failures = [failure for sample in complete for failure in sample.failures]
            yield PredictedBatch(
                [sample.number for sample in there], renderings.average(of_samples), failures, mean_of_images(there)
            )


def mean_of_images(samples: Sequence[ComputedSample]) -> NDArray[np.float32]:
    """Return the mean over the images of each sample of what the head is given of them, in their evaluation view."""
    means = [torch.stack([rows[0] for _, rows in sample.rows]).float().mean(dim=0) for sample in samples]
    return np.asarray(torch.stack(means).numpy()) if means else np.empty((0, 1), np.float32)


def predict_proba(
    extractor: Extractor, upper: TransferModel, manifest: Manifest, tta: TTA = "none"
) -> NDArray[np.float32]:
    """Return what the task makes of outputs, float32 [n, out_features], for a manifest's samples.

    Raises
    ------
    DataError
        If an image cannot be read any more.
    """
    if manifest.images:
        samples = [[None if image is None else image.location for image in views] for views in manifest.images]
        batches = iter_sample_predictions(extractor, upper, manifest.task, samples, tta, label="evaluate")
    else:
        batches = iter_predictions(extractor, upper, manifest.task, manifest.locations, tta, label="evaluate")
    activated, images = [], manifest.by_image()
    for batch in batches:
        require_readable(images, batch.failures)
        activated.append(batch.activated)
    return np.concatenate([part for part in activated if len(part)])


def read_vectors(extractor: Extractor, upper: TransferModel, manifest: Manifest) -> NDArray[np.float32]:
    """Return what the head of a network is given of each of a manifest's samples, float32 [n, d].

    Raises
    ------
    DataError
        If an image cannot be read any more.
    """
    as_vectors, images = vectors_of(extractor), manifest.by_image()

    compute = extractor.launched(upper.rows, lambda rows: [as_vectors(rows).float()], images=len(images.locations))
    vectors = []
    with progress(label="look at training images", total=len(images.locations), unit="images") as bar:
        for batch in extractor.run_batches(extractor.evaluation_requests(images.locations), compute, 1):
            require_readable(images, batch.failures)
            vectors += batch.rows
            bar.update(batch.finished)
    rows = np.concatenate(vectors).astype(np.float32, copy=False)
    if not manifest.images:
        return rows
    sizes = [len(present(views)) for views in manifest.images]
    starts = np.cumsum([0, *sizes[:-1]])
    return np.asarray(np.add.reduceat(rows, starts, axis=0) / np.array(sizes, np.float32)[:, None])

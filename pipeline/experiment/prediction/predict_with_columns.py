"""What a head says of samples that have columns of a table beside their images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.experiment.prediction.head_answers import encoded_columns, head_probabilities
from stages.columns.table_encoder import TableEncoder
from stages.extraction.extractor import Extractor
from stages.finetuning.predict_images import mean_of_images
from stages.finetuning.predicted_batch import PredictedBatch
from stages.finetuning.sample_views import complete_samples, join_samples, present
from stages.finetuning.transfer_model import TransferModel
from stages.network.aggregate import padded
from stages.network.heads.base import Head
from stages.network.heads.blocks import AggregatedBlocksHead
from stages.runtime.progress import progress
from stages.tasks.base import Task

_LOG = logging.getLogger("cutonce")


def predict_with_columns(
    extractor: Extractor,
    upper: TransferModel,
    task: Task,
    listing: Sequence[tuple[str, Mapping[str, str]]],
    columns: TableEncoder,
) -> Iterator[PredictedBatch]:
    """Yield what a head on features and columns answers for samples of one image, in order.

    Parameters
    ----------
    extractor, upper, task
        As `open_model` gives them, and what makes answers of outputs.
    listing : sequence of (location, cells)
        Where the image of each sample is, and what its table says of it by the names of the columns.
    columns : TableEncoder
        What the head was trained with.

    Raises
    ------
    DataError
        If a sample comes without one of the columns, or a cell is no number where it must be one.
    """
    locations = [location for location, _ in listing]
    values = encoded_columns(columns, locations, [cells for _, cells in listing])
    head = upper.model.head
    assert isinstance(head, Head)
    with progress(label="predict", total=len(locations), unit="images") as bar:
        requests = extractor.evaluation_requests(locations)
        compute = extractor.launched(lambda images: [extractor.features(images)], images=len(locations))
        for batch in extractor.run_batches(requests, compute, 1):
            bar.update(batch.finished)
            if not batch.indices:
                yield PredictedBatch([], np.empty((0, task.out_features), np.float32), batch.failures)
                continue
            features = batch.rows[0].astype(np.float32)
            rows = np.concatenate([features, values[batch.indices]], axis=1)
            yield PredictedBatch(batch.indices, head_probabilities(head, rows, task), batch.failures, features)


def predict_samples_with_columns(
    extractor: Extractor,
    upper: TransferModel,
    task: Task,
    samples: Sequence[tuple[str, Sequence[str | None], Mapping[str, str]]],
    columns: TableEncoder,
) -> Iterator[PredictedBatch]:
    """Yield what a head on columns answers for samples of several images, in order.

    Parameters
    ----------
    extractor, upper, task, columns
        As of `predict_with_columns`.
    samples : sequence of (name, locations, cells)
        What each is called in messages, where its images are by their places, None for a view that is missing, and what
        its table says of it.

    Yields
    ------
    PredictedBatch
        As `iter_sample_predictions` does.

    Raises
    ------
    DataError
        As `predict_with_columns`.
    """
    values = encoded_columns(columns, [name for name, _, _ in samples], [cells for _, _, cells in samples])
    head = upper.model.head
    assert isinstance(head, AggregatedBlocksHead)
    views = [locations for _, locations, _ in samples]
    locations = [location for images in views for _, location in present(images)]

    compute = extractor.launched(upper.rows, images=len(locations))

    def rows() -> Iterator[tuple[list[int], Tensor, list[tuple[int, str]]]]:
        for batch in extractor.run_batches(extractor.evaluation_requests(locations), compute, 1):
            of_images = torch.from_numpy(batch.rows[0].astype(np.float32)) if batch.rows else torch.empty(0)
            yield batch.indices, of_images, batch.failures
            bar.update(batch.finished)

    with progress(label="predict", total=len(locations), unit="images") as bar:
        for complete in complete_samples(rows(), views, 1):
            failures = [failure for sample in complete for failure in sample.failures]
            there = [sample for sample in complete if sample.rows]
            if not there:
                yield PredictedBatch([], np.empty((0, task.out_features), np.float32), failures)
                continue
            images, indices = join_samples(there, extractor.batch_size), [sample.number for sample in there]
            places = max(head.aggregate.places, 1 + max(images.places))
            bags = padded(images.images, images.sizes, images.places, places).flatten(1).numpy()
            beside = np.concatenate([bags, values[indices]], axis=1)
            yield PredictedBatch(indices, head_probabilities(head, beside, task), failures, mean_of_images(there))

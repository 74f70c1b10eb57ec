"""New images through the networks of a trained method; imported where there is something for them to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache.errors import DataError, UsageError
from pipeline.evaluation.decision import Decision
from pipeline.experiment.models.mixture_model import Network, mean_batches, together
from pipeline.experiment.prediction.find_samples import NewSample
from pipeline.experiment.prediction.predict_masks import MaskOutput, colors_of_run, predict_masks
from pipeline.experiment.prediction.predict_with_columns import predict_samples_with_columns, predict_with_columns
from pipeline.experiment.prediction.prediction import Prediction, SavedMethod, answers_of_batch
from stages.data.sources.tiles import tiling_of
from stages.finetuning.predict_images import iter_predictions, iter_sample_predictions
from stages.finetuning.predicted_batch import PredictedBatch
from stages.tasks.dense import Dense

Listing = Sequence[tuple[str, dict[str, str]]]
"""Where images are, and what a table says of each besides."""

Found = tuple[list[Prediction], list[tuple[str, str]]]
"""What is predicted, and what could not be read with the reason."""


def batches_of_images(method: SavedMethod, networks: Sequence[Network], listing: Listing) -> Iterator[PredictedBatch]:
    """Yield what networks answer for images, one a sample."""
    columns, task = method.columns, method.task

    def answers_of(network: Network) -> Iterator[PredictedBatch]:
        extractor, upper = network.extractor, network.upper
        if columns is not None:
            return predict_with_columns(extractor, upper, task, listing, columns)
        return iter_predictions(extractor, upper, task, [location for location, _ in listing], network.recipe.tta)

    return mean_batches(networks if columns is not None else together(networks, task), answers_of)


def batches_of_samples(
    method: SavedMethod, networks: Sequence[Network], samples: Sequence[NewSample]
) -> Iterator[PredictedBatch]:
    """Yield what networks answer for samples of several images."""
    columns, task = method.columns, method.task

    def answers_of(network: Network) -> Iterator[PredictedBatch]:
        extractor, upper = network.extractor, network.upper
        if columns is not None:
            listing = [(sample.location, sample.images, sample.extra) for sample in samples]
            return predict_samples_with_columns(extractor, upper, task, listing, columns)
        images = [sample.images for sample in samples]
        return iter_sample_predictions(extractor, upper, task, images, network.recipe.tta)

    return mean_batches(networks, answers_of)


def predict_samples(
    method: SavedMethod, networks: Sequence[Network], samples: Sequence[NewSample], decision: Decision | None
) -> Found:
    """Return what `predict_images` does, of samples of several images.

    Raises
    ------
    DataError
        If none of the images can be read.
    """
    locations = [location for sample in samples for location in sample.images if location is not None]
    predicted: list[Prediction] = []
    unreadable: list[tuple[str, str]] = []
    detector = method.detector()
    for batch in batches_of_samples(method, networks, samples):
        unreadable += [(locations[number], reason) for number, reason in batch.failures]
        for index, answer in zip(batch.indices, answers_of_batch(batch, method.task, detector, decision), strict=True):
            sample = samples[index]
            predicted.append(Prediction(sample.location, extra=sample.extra, **answer._asdict()))
    if not predicted:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    return predicted, unreadable


def predict_with_masks(
    method: SavedMethod,
    networks: Sequence[Network],
    listing: Listing,
    decision: Decision | None,
    output: MaskOutput | None,
) -> Found:
    """Return what `predict_images` does, of a method that gives a class for each pixel.

    Raises
    ------
    UsageError
        If a decision is asked for, which is for images as a whole.
    DataError
        If none of the images can be read.
    """
    if decision not in (None, Decision()):
        raise UsageError("`threshold_for`, `coverage` and `calibrate` are for images as a whole, not for their pixels")
    (network,) = networks
    extractor, upper, task = network.extractor, network.upper, method.task
    assert isinstance(task, Dense)
    predicted: list[Prediction] = []
    unreadable: list[tuple[str, str]] = []
    locations = [location for location, _ in listing]
    colors = None if output is None else colors_of_run(method.directory)
    detector, tiling = method.unlike, tiling_of(extractor.options)
    for index, answer in predict_masks(extractor, upper, task, locations, tiling, output, colors, detector):
        if isinstance(answer, str):
            unreadable.append((locations[index], answer))
        else:
            predicted.append(Prediction(locations[index], extra=listing[index][1], **answer._asdict()))
    if not predicted:
        raise DataError(f"none of the {len(locations)} images could be read; the first: {unreadable[0][1]}")
    return predicted, unreadable

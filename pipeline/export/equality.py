"""Whether a file answers as the run that it came from: both are asked about real images of unlike sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CutonceError, DataError, UsageError
from pipeline.experiment.prediction.classify_images import answers_of_columns
from pipeline.experiment.prediction.find_samples import NewSample
from pipeline.experiment.prediction.predict_by_network import batches_of_images, batches_of_samples
from pipeline.export.exported_module import COLUMNS, IMAGES, PROBABILITIES, SIZES, name_of_output, places_of_method
from pipeline.library.export_model import RunFile, TrainedModel
from pipeline.run_layout import MANIFEST
from stages.data.augment.mask_view import seen_part
from stages.data.manifest import Manifest
from stages.data.sources.open_image import read_image
from stages.finetuning.predicted_batch import PredictedBatch
from stages.tasks.dense import Dense
from stages.tasks.regression import Regression
from stages.tasks.tiles import Box, merge_tiles

BOUND = 1e-4
"""By how much an answer of a file may differ from the run's: a probability, or a number in its standard deviations."""

LOOKED_AT = 64
"""Samples among whose images those of unlike sizes are looked for."""

COMPARED = 8
"""Samples whose answers are compared."""


@dataclass(frozen=True)
class AskedSample:
    """One sample with what a method is given of it.

    Attributes
    ----------
    name : str
        What it is called in messages.
    locations : tuple of str or None
        Where its images are, by their places; None for a view that is missing. Empty where no image is opened.
    cells : dict of str to str
        What its table says of it.
    """

    name: str
    locations: tuple[str | None, ...]
    cells: dict[str, str]


@dataclass(frozen=True)
class Equality:
    """What the comparison came to.

    Attributes
    ----------
    samples : int
        How many were compared.
    sizes : int
        Of how many unlike sizes their images are.
    difference : float
        The largest of all answers: of probabilities, or of numbers in standard deviations of the target.
    as_trained : float or None
        The same from what the run answers in the arithmetic of the features it was trained on; None where that is
        float32, as the file's.
    """

    samples: int
    sizes: int
    difference: float
    as_trained: float | None = None

    @property
    def asked(self) -> str:
        """What was asked about, in words."""
        samples = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        return f"{samples} of the run, of {'one size' if self.sizes == 1 else f'{self.sizes} sizes'}"


def compare_with_run(model: TrainedModel, run_file: RunFile, samples: Sequence[AskedSample]) -> Equality:
    """Return how far a file's answers are from the run's own, in float32; each sample is asked about by itself.

    Raises
    ------
    CutonceError
        If one of them differs by more than `BOUND`.
    DataError
        If an image cannot be read.
    """
    own = own_answers(model, samples)
    largest, sizes = 0.0, set[tuple[int, ...]]()
    for sample, expected in zip(samples, own, strict=True):
        inputs = inputs_of(model, sample)
        sizes |= {array.shape[-2:] for array in inputs if array.ndim > 3}
        given = run_file(inputs)
        answers = given[-1][0]
        if answers.shape != expected.shape:
            raise CutonceError(f"the file answers {[*answers.shape]} of {sample.name}, and the run {[*expected.shape]}")
        if len(given) > 1 and (wrong := _wrong_pixels(given[0][0], expected)):
            raise CutonceError(
                f"the file's mask of {sample.name} has other classes at {wrong:,} pixels: it is not written"
            )
        difference = float(np.abs(_scaled(model, answers) - _scaled(model, expected)).max())
        largest = max(largest, difference) if difference == difference else float("nan")
        if not difference <= BOUND:
            raise CutonceError(
                f"the file's answers for {sample.name} differ from the run's by {difference:.2g}, which is more than "
                f"{BOUND:g}: it is not written"
            )
    return Equality(len(samples), max(len(sizes), 1), largest)


def difference_as_trained(
    model: TrainedModel, as_trained: TrainedModel, samples: Sequence[AskedSample]
) -> float | None:
    """Return how far answers in float32 are from those in the arithmetic of the features that a method was trained on.

    None where that is float32, or no network is asked.
    """
    if all(network.extractor.trunk.arithmetic == "fp32" for network in as_trained.networks):
        return None
    pairs = zip(own_answers(model, samples), own_answers(as_trained, samples), strict=True)
    return max(float(np.abs(_scaled(model, ours) - _scaled(model, theirs)).max()) for ours, theirs in pairs)


def _wrong_pixels(mask: NDArray[Any], expected: NDArray[np.floating]) -> int:
    """Return at how many pixels a mask, [H, W], has a class that is less probable than another by more than `BOUND`."""
    said = np.take_along_axis(expected, mask[None].astype(np.int64), axis=0)[0]
    return int((said < expected.max(axis=0) - BOUND).sum())


def samples_of_run(model: TrainedModel) -> list[AskedSample]:
    """Return samples of the run that a method is of, those that are not trained on first, of unlike sizes.

    Raises
    ------
    DataError
        If the run has none, or none of them can be read any more.
    """
    path = model.directory.parent / MANIFEST
    if not path.exists():
        raise DataError(f"{path} is missing, which says what images to check a file with")
    manifest = Manifest.load(path)
    order = [index for split in ("test", "val", "train") for index in manifest.indices(split).tolist()][:LOOKED_AT]
    samples = [asked_sample(manifest, index) for index in order]
    if not model.takes_images:
        return samples[:COMPARED]
    by_size: dict[tuple[tuple[int, ...], ...], list[AskedSample]] = {}
    failures = []
    for sample in samples:
        try:
            shapes = [read_image(place, model.extractor.reading).shape for place in sample.locations if place]
        except DataError as error:
            failures.append(str(error))
            continue
        by_size.setdefault(tuple(map(tuple, shapes)), []).append(sample)
    if not by_size:
        raise DataError(
            f"none of the images of {path} can be read, and a file is checked with them when it is written"
            + (f": {failures[0]}" if failures else "")
        )
    # one of each size, then the second of each
    rounds = [of_size[place] for place in range(COMPARED) for of_size in by_size.values() if place < len(of_size)]
    return rounds[:COMPARED]


def asked_sample(manifest: Manifest, index: int) -> AskedSample:
    """Return a sample of a manifest."""
    sample = manifest[index]
    if manifest.images:
        views = manifest.images[index]
        locations: tuple[str | None, ...] = tuple(None if view is None else view.location for view in views)
    else:
        locations = (manifest.locations[index],)
    return AskedSample(manifest.locations[index], locations, dict(sample.extra))


def inputs_of(model: TrainedModel, sample: AskedSample) -> list[NDArray[np.generic]]:
    """Return what a file is given of one sample, as a batch of one, in the order of its inputs.

    Raises
    ------
    DataError
        If an image cannot be read, or a column is missing.
    """
    inputs: dict[str, NDArray[np.generic]] = {}
    if model.takes_images:
        read = {
            place: read_image(location, model.extractor.reading).numpy()
            for place, location in enumerate(sample.locations)
            if location is not None
        }
        if model.takes_samples:
            places = max(places_of_method(model), 1 + max(read, default=0))
            inputs[IMAGES], inputs[SIZES] = stack_sample(read, places)
        else:
            inputs[IMAGES] = np.ascontiguousarray(read[0])[None]
    if model.columns is not None:
        cells = {name: [sample.cells[name]] for name in model.columns.names if name in sample.cells}
        inputs[COLUMNS] = model.columns.encode(cells, [sample.name]).values
    return [inputs[name] for name in (IMAGES, SIZES, COLUMNS) if name in inputs]


def stack_sample(images: dict[int, NDArray[np.uint8]], places: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return the images of a sample, uint8 [C, h, w] by their places, as uint8 [1, F, C, H, W], and sizes [1, F, 2]."""
    height, width = (max(image.shape[dim] for image in images.values()) for dim in (1, 2))
    channels = next(iter(images.values())).shape[0]
    stacked = np.zeros((1, places, channels, height, width), np.uint8)
    sizes = np.zeros((1, places, 2), np.int64)
    for place, image in images.items():
        stacked[0, place, :, : image.shape[1], : image.shape[2]] = image
        sizes[0, place] = image.shape[1:]
    return stacked, sizes


def own_answers(model: TrainedModel, samples: Sequence[AskedSample]) -> list[NDArray[np.floating]]:
    """Return what the pipeline answers for samples: probabilities, values in the unit of the targets, or maps of them.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    if isinstance(model.task, Dense):
        return [_own_mask(model, sample) for sample in samples]
    answers: list[NDArray[np.floating]] = []
    for batch in _batches(model, samples):
        for _, reason in batch.failures:
            raise DataError(reason)
        activated = model.decision.calibrated(batch.activated)
        answers += [*(model.task.in_units(activated) if isinstance(model.task, Regression) else activated)]
    return answers


def _batches(model: TrainedModel, samples: Sequence[AskedSample]) -> list[PredictedBatch]:
    """Return the pipeline's answers, by the very functions that `predict` takes."""
    if model.takes_samples:
        views = [NewSample(sample.name, sample.locations, sample.cells) for sample in samples]
        return list(batches_of_samples(model.method, model.networks, views))
    if not model.takes_images:
        return [answers_of_columns(model.method, [(sample.name, sample.cells) for sample in samples])]
    listing = [(str(sample.locations[0]), sample.cells) for sample in samples]
    return list(batches_of_images(model.method, model.networks, listing))


def _own_mask(model: TrainedModel, sample: AskedSample) -> NDArray[np.floating]:
    """Return the probabilities of one image at its own size, before they are rounded to be stored."""
    if len(sample.locations) != 1 or sample.locations[0] is None:
        raise UsageError("masks are of one image a sample")
    preprocessing = model.extractor.backbone.preprocessing
    pixels = read_image(sample.locations[0], model.extractor.reading)
    height, width = pixels.shape[-2:]
    logits = model.transfer.logits(preprocessing.render(pixels)[None])[0][0]
    box = Box(0, 0, height, width)
    merged = merge_tiles(seen_part(logits, preprocessing, (height, width))[None].float(), [box], (height, width))
    return np.asarray(merged.softmax(dim=0).cpu().numpy())


def _scaled(model: TrainedModel, answers: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return answers as they are compared: numbers by their place on the scale on which they are learned."""
    numbers = answers.astype(np.float64)
    if name_of_output(model.task) == PROBABILITIES or not isinstance(model.task, Regression):
        return numbers
    learned = np.log(numbers) if model.task.log else numbers
    return np.asarray((learned - model.task.mean) / model.task.scale)

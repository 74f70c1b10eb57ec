"""What a network answers for every pixel of images of any size, whole or tile by tile, at the images' own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import DataError
from stages.data.augment.mask_view import seen_part
from stages.data.image_stream import ImageRequest
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import read_mask
from stages.data.sources.open_image import read_image
from stages.data.sources.tiles import tile_location
from stages.extraction.extractor import Extractor
from stages.finetuning.image_batches import require_readable
from stages.finetuning.masks import classes_of
from stages.finetuning.transfer_model import TransferModel
from stages.runtime.progress import progress
from stages.tasks.base import Statistics
from stages.tasks.dense import Dense, highest
from stages.tasks.tiles import Box, Tiling, merge_tiles, most_probable


class PredictedMask(NamedTuple):
    """What was answered for one image.

    Attributes
    ----------
    place : int
        Which of the images.
    mask : uint8 [H, W], or str
        The number of the most probable class of each pixel, at the image's own size; the reason where the image could
        not be read.
    probabilities : float16 [classes, H, W], optional
        Where they were asked for.
    vector : float32 [d], optional
        What stands for what the head was given, where that was asked for; of tiles the mean of theirs.
    """

    place: int
    mask: NDArray[np.uint8] | str
    probabilities: NDArray[np.float16] | None = None
    vector: NDArray[np.float32] | None = None


@dataclass
class _Image:
    """An image that is worked on: where its tiles lie, none for all of it, and what is there of them, in order."""

    shape: tuple[int, int] = (0, 0)
    boxes: list[Box] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    pending: int = 1
    failure: str = ""


def iter_masks(
    extractor: Extractor,
    upper: TransferModel,
    locations: Sequence[str],
    tiling: Tiling | None = None,
    *,
    shapes: Sequence[tuple[int, int]] | None = None,
    probabilities: bool = False,
    as_vectors: Callable[[Tensor], Tensor] | None = None,
    label: str = "predict",
) -> Iterator[PredictedMask]:
    """Yield what a network answers for images, in order, with a progress bar.

    Held are the logits of one image, at the size of the network's maps, and of the tiles that are computed ahead.

    Parameters
    ----------
    upper
        Gives logits [b, classes, h, w].
    tiling
        How images are cut into tiles, whose logits are averaged where they overlap; None for images as a whole.
    probabilities
        Whether those of all classes are wanted, which take classes x 2 bytes a pixel.
    as_vectors
        Makes a vector of what the head is given of each image, [b, *row_shape] -> [b, d], where vectors are wanted.
    shapes
        Heights and widths that masks of whole images are to have; those of the images by default.

    Raises
    ------
    DataError
        If what the network answers is not finite.
    """
    preprocessing = extractor.backbone.preprocessing
    images: dict[int, _Image] = {}
    owners: list[int] = []

    def requests() -> Iterator[ImageRequest]:
        for index, location in enumerate(locations):
            image = images[index] = _Image()
            tiles = [location]
            if shapes is not None and tiling is None:
                image.shape, image.boxes = shapes[index], [Box(0, 0, *shapes[index])]
            elif tiling is not None or extractor.reading.shorter_side is not None:
                image.shape, image.boxes = _tiles(location, tiling, extractor)
            if tiling is not None:
                tiles = [tile_location(location, box) for box in image.boxes]
                image.pending = len(tiles)
            owners.extend([index] * len(tiles))
            for tile in tiles:
                yield ImageRequest(tile, _Rendering(image, preprocessing), extractor.reading)

    def answer(of_images: Tensor) -> list[Tensor]:
        logits, rows = upper.logits_of(of_images)
        return [logits] if as_vectors is None else [logits, as_vectors(rows).float()]

    compute = extractor.launched(upper.rows, answer, images=len(locations) if tiling is None else None)
    done = 0
    with progress(label=label, total=len(locations), unit="images") as bar:
        for batch in extractor.run_batches(requests(), compute, 1):
            for row, number in enumerate(batch.indices):
                image = images[owners[number]]
                image.logits.append(torch.from_numpy(batch.rows[0][row]))
                image.vectors += [vectors[row] for vectors in batch.rows[1:]]
                image.pending -= 1
            for number, reason in batch.failures:
                images[owners[number]].failure = reason
                images[owners[number]].pending -= 1
            while done in images and not images[done].pending:
                yield _finished(done, images.pop(done), preprocessing, probabilities=probabilities)
                done += 1
                bar.update()


@dataclass
class _Rendering:
    """Renders an image, and notes how large it is where that is not known."""

    image: _Image
    preprocessing: Preprocessing

    def __call__(self, pixels: Tensor) -> Tensor:
        if not self.image.boxes:
            height, width = pixels.shape[-2:]
            self.image.shape, self.image.boxes = (height, width), [Box(0, 0, height, width)]
        return self.preprocessing.render(pixels)


def mask_statistics(
    extractor: Extractor, upper: TransferModel, manifest: Manifest, tiling: Tiling | None = None
) -> Statistics:
    """Return what the task keeps of each of a manifest's samples, of every pixel of its mask as it is stored.

    Raises
    ------
    DataError
        If an image or a mask cannot be read any more, or, with tiles, differ in size.
    """
    task, texts, classes = manifest.task, manifest.target_texts, classes_of(manifest)
    assert isinstance(task, Dense)
    shapes = None if tiling is not None else [read_mask(text, classes).shape for text in texts]
    statistics = np.zeros((len(manifest), task.out_features, task.out_features), np.int64)
    for answer in iter_masks(extractor, upper, manifest.locations, tiling, shapes=shapes, label="evaluate"):
        if isinstance(answer.mask, str):
            require_readable(manifest, [(answer.place, answer.mask)])
        assert not isinstance(answer.mask, str)
        truth = read_mask(texts[answer.place], classes)
        if truth.shape != answer.mask.shape:
            raise DataError(
                f"{texts[answer.place]} is {truth.shape[1]} x {truth.shape[0]} and its image {answer.mask.shape[1]} x "
                f"{answer.mask.shape[0]}: tiles need masks of the size of their images; resize one of the two, or "
                "leave out `tile`"
            )
        statistics[answer.place] = task.statistic_of_mask(answer.mask, truth)
    return statistics


def _tiles(location: str, tiling: Tiling | None, extractor: Extractor) -> tuple[tuple[int, int], list[Box]]:
    """Return the shape of an image and where its tiles lie; of one that cannot be read there is one, which says so.

    The shape is that of the file, also where the network is shown what was decoded at a reduced scale.
    """
    try:
        height, width = read_image(location, extractor.reading_in_full).shape[-2:]
    except UnreadableImageError:
        return (1, 1), [Box(0, 0, 1, 1)]
    return (height, width), [Box(0, 0, height, width)] if tiling is None else tiling.boxes(height, width)


def _finished(index: int, image: _Image, preprocessing: Preprocessing, *, probabilities: bool) -> PredictedMask:
    if image.failure:
        return PredictedMask(index, image.failure)
    parts = [
        seen_part(logits, preprocessing, (box.height, box.width))
        for logits, box in zip(image.logits, image.boxes, strict=True)
    ]
    logits = torch.stack(parts).float()
    if not torch.isfinite(logits.sum()):
        raise DataError("what the network answers is not finite: the training diverged; try a lower rate")
    vector = np.asarray(np.mean(image.vectors, axis=0, dtype=np.float32)) if image.vectors else None
    if not probabilities:
        return PredictedMask(index, most_probable(logits, image.boxes, image.shape).numpy(), vector=vector)
    merged = merge_tiles(logits, image.boxes, image.shape)
    mask, of_classes = highest(merged), merged.softmax(dim=0).to(torch.float16)
    return PredictedMask(index, mask.numpy(), of_classes.numpy(), vector)

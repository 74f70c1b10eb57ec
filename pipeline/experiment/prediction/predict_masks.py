"""New images through a trained method that gives a class for each pixel: masks as files, shares of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.shown_masks import ShownMasks, places_to_show
from pipeline.experiment.prediction.mask_files import (
    CLASSES,
    output_names,
    require_own_folder,
    save_classes,
    save_index_mask,
    save_mark,
    save_overlay,
    save_probabilities,
)
from pipeline.run_layout import MANIFEST, SHOWN_MASKS
from stages.data.images.rgb import as_colors
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import read_mask
from stages.data.masks.mask_colors import Color, class_colors
from stages.data.sources.open_image import read_image
from stages.data.sources.tiles import tiling_of
from stages.extraction.extractor import Extractor
from stages.finetuning.masks import classes_of
from stages.finetuning.predict_images import vectors_of
from stages.finetuning.predict_masks import PredictedMask, iter_masks
from stages.finetuning.transfer_model import TransferModel
from stages.inspection.unlike import UnlikeDetector
from stages.tasks.dense import Dense
from stages.tasks.tiles import Tiling


@dataclass(frozen=True)
class MaskOutput:
    """Where predicted masks are written, and what else.

    Attributes
    ----------
    folder : Path
        New, empty, or written by a prediction. Gets ``classes.csv``, the names and colors of the classes, and index
        masks in ``masks/``, by the paths of their images.
    overlays : bool
        Whether each image is written with the colors of its mask on it, in ``overlays/``.
    probabilities : bool
        Whether the probabilities of all classes are written, float16 [classes, H, W], in ``probabilities/``.
    """

    folder: Path
    overlays: bool = True
    probabilities: bool = False


class MaskAnswer(NamedTuple):
    """What is said of one image, by the names that `Prediction` has for it."""

    words: str
    cells: Mapping[str, str]
    activated: NDArray[np.float32]
    unlike: float | None = None


def predict_masks(
    extractor: Extractor,
    upper: TransferModel,
    task: Dense,
    locations: Sequence[str],
    tiling: Tiling | None = None,
    output: MaskOutput | None = None,
    colors: Sequence[Color] | None = None,
    detector: UnlikeDetector | None = None,
) -> Iterator[tuple[int, MaskAnswer | str]]:
    """Yield the number of each image and what is said of it, or why it could not be read; write what `output` asks for.

    Nothing is kept of an image once it is yielded.

    Parameters
    ----------
    colors
        Of the classes; by default told apart as well as can be.
    detector
        Tells how unlike the training images each is.
    """
    colors, names = colors or class_colors(task.out_features), output_names(locations)
    if output is not None:
        require_own_folder(output.folder)
        save_mark(output.folder)
        save_classes(output.folder / CLASSES, task.class_names, colors)
    wants_probabilities = output is not None and output.probabilities
    as_vectors = None if detector is None else vectors_of(extractor)
    answers = iter_masks(extractor, upper, locations, tiling, probabilities=wants_probabilities, as_vectors=as_vectors)
    for answer in answers:
        if isinstance(answer.mask, str):
            yield answer.place, answer.mask
            continue
        if output is not None:
            _write(output, names[answer.place], answer, task, colors, locations[answer.place], extractor)
        cells = task.mask_cells(answer.mask)
        words = task.decode(torch.from_numpy(answer.mask))
        shares = np.array([float(cell) for cell in cells[1:]], np.float32)
        said = dict(zip(task.predicted_columns, cells, strict=True))
        unlike = None
        if detector is not None and answer.vector is not None:
            unlike = float(detector.scores(answer.vector[None])[0])
        yield answer.place, MaskAnswer(words, said, shares, unlike)


def colors_of_run(model: Path) -> list[Color] | None:
    """Return the colors that the classes of a trained method have in the masks it was trained on; None if in none."""
    path = model.parent / MANIFEST
    classes = Manifest.load(path).mask_classes if path.exists() else None
    if classes is None or classes.colors is None:
        return None
    return [(color >> 16, color >> 8 & 255, color & 255) for color in classes.colors]


def show_masks_of_network(
    directory: Path, extractor: Extractor, upper: TransferModel, test: Manifest, predictions: Predictions
) -> None:
    """Leave the predicted and the true masks of a few test images in the folder of a method, for the page."""
    places = places_to_show(predictions.statistics)
    shown = test.select(places.tolist())
    true = [read_mask(text, classes_of(shown)) for text in shown.target_texts]
    shapes = [(mask.shape[0], mask.shape[1]) for mask in true]
    tiling = tiling_of(extractor.options)
    answers = iter_masks(extractor, upper, shown.locations, tiling, shapes=shapes, label="show")
    predicted = [answer.mask for answer in answers if not isinstance(answer.mask, str)]
    ShownMasks.of(predictions.keys[places], predicted, true).save(directory / SHOWN_MASKS)


def _write(
    output: MaskOutput,
    name: str,
    answer: PredictedMask,
    task: Dense,
    colors: Sequence[Color],
    location: str,
    extractor: Extractor,
) -> None:
    assert not isinstance(answer.mask, str)
    save_index_mask(output.folder / "masks" / f"{name}.png", answer.mask, colors)
    if answer.probabilities is not None:
        save_probabilities(output.folder / "probabilities" / f"{name}.npz", answer.probabilities, task.class_names)
    if output.overlays:
        pixels = as_colors(read_image(location, extractor.reading_in_full)).permute(1, 2, 0).numpy()
        save_overlay(output.folder / "overlays" / f"{name}.jpg", pixels, answer.mask, colors)

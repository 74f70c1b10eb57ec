"""What is predicted for an image, from what a head or a network answers: words, cells of a table, how unlike it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.decision import Decision, class_names_of
from pipeline.experiment.models.model_card import ModelCard, read_columns, read_recipe, read_unlike, task_of_model
from stages.columns.table_encoder import TableEncoder
from stages.finetuning.predicted_batch import PredictedBatch
from stages.inspection.unlike import UnlikeDetector
from stages.tasks.base import Task

COLUMNS_ALONE = "columns"
"""The method of transfer that opens no image."""

POSSIBLE = "possible"
"""The column of the classes that are possible."""

SEPARATOR = "|"
"""Between these."""

_LOG = logging.getLogger("cutonce")


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one image, and what its table says of it besides; equal are those that say the same.

    Attributes
    ----------
    location : str
    words : str
        The prediction in a line.
    cells : mapping of str to str
        All that the task says of it, by the names of columns: a class and the probability of every class, say.
    activated : float32 [out_features]
        What the task makes of the network's output: probabilities, or values; of masks the share of each class.
    extra : mapping of str to str
    unlike : float, optional
        How far it is from the training images, as a multiple of the level that hardly any of the held-out images is
        beyond: above 1 it is unlike them, and what is predicted says little. None where the model cannot tell.
    """

    location: str
    words: str
    cells: Mapping[str, str]
    activated: NDArray[np.float32] = field(compare=False)  # arrays have no one answer
    extra: Mapping[str, str] = field(default_factory=dict)
    unlike: float | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether it is known to be unlike the training images."""
        return self.unlike is not None and self.unlike > 1


class Answer(NamedTuple):
    """What is predicted for one image, by the names that `Prediction` has for it."""

    words: str
    cells: Mapping[str, str]
    activated: NDArray[np.float32]
    unlike: float | None


def answers_of_batch(
    batch: PredictedBatch, task: Task, detector: UnlikeDetector | None, decision: Decision | None
) -> Iterator[Answer]:
    """Yield what is predicted for the images of a batch, and how unlike the training images each is."""
    scores: list[float | None] = [None] * len(batch.indices)
    if detector is not None and batch.vectors is not None and len(batch.indices):
        scores = detector.scores(batch.vectors).tolist()
    rows = batch.activated if decision is None else decision.calibrated(batch.activated).astype(np.float32, copy=False)
    for activated, score in zip(torch.from_numpy(rows), scores, strict=True):
        cells = dict(zip(task.predicted_columns, task.predicted_cells(activated), strict=True))
        words = task.predicted_words(activated)
        if decision is not None and decision != Decision():
            cells, words = _as_decided(decision, class_names_of(task), activated.numpy(), cells)
        yield Answer(words, cells, activated.numpy(), score)


def _as_decided(
    decision: Decision, names: Sequence[str], probabilities: NDArray[np.float32], cells: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Return the cells and the words of one prediction by a threshold, and with the classes that are possible."""
    predicted = int(decision.predicted(probabilities[None])[0])
    decided, words = {**cells, "class": names[predicted]}, f"{names[predicted]}  {probabilities[predicted]:.3f}"
    if decision.least is None:
        return decided, words
    possible = [names[number] for number in np.flatnonzero(decision.possible(probabilities[None])[0]).tolist()]
    return {**decided, POSSIBLE: SEPARATOR.join(possible)}, f"{words}  possible: {', '.join(possible)}"


@dataclass(frozen=True)
class SavedMethod:
    """A trained method as far as no network is opened.

    Attributes
    ----------
    directory : Path
    card : ModelCard
    task : Task
        What it predicts, as it was tested.
    columns : TableEncoder or None
        What makes numbers of the columns of a table that it takes.
    unlike : UnlikeDetector or None
        What tells images that are unlike the training images; None of a method that was saved without.
    """

    directory: Path
    card: ModelCard
    task: Task
    columns: TableEncoder | None
    unlike: UnlikeDetector | None

    @classmethod
    def read(cls, directory: Path) -> SavedMethod:
        """Return the method of a folder.

        Raises
        ------
        DataError
            If the folder holds no complete model.
        """
        task, card = task_of_model(directory), read_recipe(directory)
        assert card is not None, "which has a task"
        return cls(directory, card, task, read_columns(directory), read_unlike(directory))

    @property
    def takes_images(self) -> bool:
        """Whether it opens images at all."""
        return self.card.method != COLUMNS_ALONE

    def detector(self) -> UnlikeDetector | None:
        """Return `unlike`; where a method on images has none, it is said."""
        if self.unlike is None and self.takes_images:
            _LOG.info(
                f"note: {self.directory} was saved by a version that kept nothing to compare images with: none is "
                "marked as unlike the training images. Train it again with `overwrite` to have that"
            )
        return self.unlike

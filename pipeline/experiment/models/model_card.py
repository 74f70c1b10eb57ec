"""What a trained method stands on, as its folder says it: in words and numbers, without the networks that it takes.

Whoever has cached features, or wants to know what a method predicts, reads this and does not wait for a network.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import DataError
from pipeline.evaluation.method_folders import put_back
from pipeline.run_layout import COLUMNS, MODEL_CARD, UNLIKE
from stages.columns.table_encoder import TableEncoder
from stages.config.augment_grammar import TTA
from stages.config.features import OF_THE_MACHINE, FeatureConfig
from stages.inspection.unlike import UnlikeDetector
from stages.tasks.base import Task, task_from_json
from stages.tasks.single_label import SingleLabel

_NOT_OF_TRUNK = (
    *OF_THE_MACHINE,
    *("mirror", "views", "augment", "storage_dtype", "engine"),
)
"""Options of stage 1 that say nothing of what a trunk computes of an image as it is: of looks, storage, the machine."""


_SAME = 1e-3
"""Share of the largest logit up to which logits differ where the same is computed by another processor."""


@dataclass(frozen=True)
class Deviation:
    """What another way of computing features made of a head's answers.

    Attributes
    ----------
    trained : (precision, decoder)
        In which the features were computed that the head was trained on.
    computed : (precision, decoder)
        In which they were computed for comparison, on the machine that trained.
    images : int
        Training images.
    logits : float or None
        Largest difference of an output before activation; None where some are not finite.
    scale : float
        The largest such output that is finite.
    predicted : float
        Largest difference of what is predicted: of a probability, or of a number in its own unit.
    changed : int or None
        Images of which another class is predicted, or other labels; None where numbers are.
    """

    trained: tuple[str, str]
    computed: tuple[str, str]
    images: int
    logits: float | None
    scale: float
    predicted: float
    changed: int | None

    @property
    def precision(self) -> str:
        """In which the features were computed for comparison, by its name among the options."""
        return self.computed[0].split("-")[0]

    @property
    def is_worth_saying(self) -> bool:
        """Whether it is of another way, or rows that should be the same are not."""
        moved = self.logits is not None and self.logits > _SAME * self.scale
        return self.trained != self.computed or moved or bool(self.changed)

    @property
    def words(self) -> str:
        """It in a sentence."""
        (precision, decoder), (here, decoder_here) = self.trained, self.computed
        ways = (
            (precision, here) if decoder == decoder_here else (f"{precision} ({decoder})", f"{here} ({decoder_here})")
        )
        if self.changed is None:
            moved = f"values by {self.predicted:.2g} at most apart"
        else:
            logits = "" if self.logits is None else f"logits (up to {self.scale:.2g}) by {self.logits:.2g} and "
            probabilities = f"probabilities by {self.predicted:.2g} at most"
            moved = f"{logits}{probabilities} apart, and {self.changed} predicted otherwise"
        return (
            f"trained on {ways[0]} features; of {self.images} training images, computed in {ways[1]} where it was "
            f"trained, {moved}"
        )


@dataclass(frozen=True)
class ModelCard:
    """What a trained method stands on.

    Attributes
    ----------
    method, name, seed
        As in the result.
    task : dict
        What it predicts, as JSON values: the task that it was tested as, thresholds and intervals included.
    features : dict
        The options of stage 1, as plain values.
    weights_digest : str
        Digest of the backbone's tensors the method was trained on.
    unfreeze : str or None
        What fine-tuning trained; None for a head on cached features.
    invert_unfreeze : bool
        Whether it trained what that would have left frozen.
    tta : str
        Test-time augmentation it was tested with, and answers with.
    training : str or None
        Digest of what shaped the weights, however they were tested; None for a head on cached features.
    identity : str
        Digest of everything that shaped the training: the same command with the same identity has nothing to do.
    features_fingerprint : str or None
        Of the features, as in the names of their caches; None in a card of a version that did not keep it.
    samples : dict or None
        How samples of several images were made, by the options of the data; None where each is one image.
    handed_in : dict or None
        Of a backbone that Python handed in, and no name loads: its `identity`, and its `preprocessing` as JSON values.
    deviations : list of Deviation
        How far its answers move where features are computed in another way than those that it was trained on; empty
        where nothing was measured.
    """

    method: str
    name: str
    seed: int
    task: dict[str, Any]
    features: dict[str, Any]
    weights_digest: str
    unfreeze: str | None
    identity: str
    invert_unfreeze: bool = False
    tta: TTA = "none"
    training: str | None = None
    handed_in: dict[str, Any] | None = None
    features_fingerprint: str | None = None
    samples: dict[str, Any] | None = None
    deviations: list[Deviation] = field(default_factory=list)

    @property
    def shares_trunk(self) -> bool:
        """Whether its passes through the network do for another look at the same images too: see `trunk`."""
        return self.unfreeze is None and self.samples is None and "," not in self.features["cut"]

    @property
    def trunk(self) -> str:
        """What two methods have in common for whose images one trunk does: all but what is looked at, and the machine.

        It is told without opening a network: where the caches of the two were made by other words for the same options,
        it tells them apart.
        """
        shaping = {name: value for name, value in self.features.items() if name not in _NOT_OF_TRUNK}
        return json.dumps([shaping, self.weights_digest, self.tta], sort_keys=True, default=str)

    @property
    def is_published(self) -> bool:
        """Whether a name alone gives its network and the weights, and no file, folder or module of the user's."""
        name, weights = self.features["backbone"], self.features["weights"]
        return self.handed_in is None and weights in ("default", "none") and ":" not in name.removeprefix("timm:")


def read_recipe(directory: Path) -> ModelCard | None:
    """Return the recipe of a model directory, or None where no complete model is.

    A card of a version that knew no other task than one class a sample has `class_names` in its place.

    Raises
    ------
    DataError
        If it is damaged, or of a version this one does not know.
    """
    path = directory / MODEL_CARD
    put_back(directory)
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if "class_names" in stored:
            stored["task"] = {"name": SingleLabel.name, "class_names": stored.pop("class_names")}
        measured = [
            Deviation(**{**kept, "trained": tuple(kept["trained"]), "computed": tuple(kept["computed"])})
            for kept in stored.get("deviations", [])
        ]
        return ModelCard(**{**stored, "deviations": measured})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is damaged or was made by another version ({error}); train this method again"
        ) from error


def task_of_model(directory: Path) -> Task:
    """Return what a trained method predicts.

    Raises
    ------
    DataError
        If the directory holds no complete model.
    """
    recipe = read_recipe(directory)
    if recipe is None:
        raise DataError(f"{directory} holds no trained model ({MODEL_CARD} is missing)")
    return task_from_json(recipe.task)


def read_columns(directory: Path) -> TableEncoder | None:
    """Return what makes numbers of the columns that a trained method takes; None where it takes images alone.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = directory / COLUMNS
    return TableEncoder.load(path) if path.exists() else None


def read_unlike(directory: Path) -> UnlikeDetector | None:
    """Return what tells images that are unlike the training images of a method; None where it was saved without.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = directory / UNLIKE
    return UnlikeDetector.load(path) if path.exists() else None


def config_to_json(options: FeatureConfig) -> dict[str, Any]:
    """Return stage-1 options as JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}

"""Finished runs to compare: result files as training leaves them, with predictions of a known quality."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from pipeline.evaluation.out_of_fold import OutOfFoldPredictions
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result, evaluate_test
from stages.tasks.base import mean_metric
from stages.tasks.single_label import SingleLabel


def key(image: int) -> str:
    return hashlib.blake2b(str(image).encode(), digest_size=16).hexdigest()


def predictions(labels, wrong, classes=2, images=None, locations=None, confidence=0.9, groups=None) -> Predictions:
    """Predictions that are wrong (the next class) where `wrong` says so, with equal confidence."""
    labels, wrong = np.asarray(labels), np.asarray(wrong, dtype=bool)
    images = range(len(labels)) if images is None else images
    predicted = (labels + wrong) % classes
    probabilities = np.full((len(labels), classes), (1 - confidence) / (classes - 1))
    probabilities[np.arange(len(labels)), predicted] = confidence
    locations = [f"photos/{image}.png" for image in images] if locations is None else locations
    task = SingleLabel([f"class {number}" for number in range(classes)])
    statistics = task.statistic(torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(labels))
    return Predictions(task, [key(image) for image in images], locations, statistics, groups=groups)


def result(
    predicted: Predictions,
    *,
    method="linear",
    name="logistic",
    seed=0,
    val=0.8,
    seconds=10.0,
    class_names=None,
    **fields,
) -> Result:
    task = predicted.task if class_names is None else SingleLabel(class_names)
    return Result(
        **{
            "method": method,
            "name": name,
            "seed": seed,
            "samples": {"train": 100, "val": 20, "test": len(predicted)},
            "task": task,
            "val": val if isinstance(val, dict) else {task.primary: val},
            "test": evaluate_test(task, predicted.statistics, 0, predicted.units),
            "seconds": seconds,
            "seconds_by_stage": {"extract": 0.5 * seconds, "train": 0.4 * seconds, "evaluate": 0.1 * seconds},
            "cpu_seconds": 1.5 * seconds,
            "peak_memory_bytes": 2**30,
            "trainable_parameters": 2562,
            "backbone_forwards": 0,
            "extraction_forwards": 120 + len(predicted),
            "backbone": "efficientnet_lite0",
            "weights": "some weights",
            "cut": "flatten",
            "pool": "avg",
            "image_size": 224,
            **fields,
        }
    )


def of_task(task, activated, targets) -> Predictions:
    """Predictions of any task, from what it makes of outputs and from targets, [n, ...] each."""
    activated, targets = torch.as_tensor(np.asarray(activated)), torch.as_tensor(np.asarray(targets))
    images = range(len(targets))
    locations = [f"photos/{image}.png" for image in images]
    return Predictions(task, [key(image) for image in images], locations, task.statistic(activated, targets))


def add(run: Path, predicted: Predictions, *, validation=None, out_of_fold=None, **fields) -> Path:
    """Write one result into a run; return its folder."""
    made = result(predicted, **fields)
    directory = run / f"seed-{made.seed}" / f"{made.method}-{made.name}"
    made.save(directory, predicted, validation=validation, out_of_fold=out_of_fold)
    return directory


def folded(predicted: Predictions, folds=5, repeats=1, groups=None) -> OutOfFoldPredictions:
    """Predictions for train and validation, the same in all divisions."""
    count = len(predicted)
    return OutOfFoldPredictions(
        predicted.task,
        np.tile(predicted.keys, repeats),
        np.tile(np.arange(count) % folds, repeats),
        np.repeat(np.arange(repeats), count),
        np.tile(predicted.statistics, repeats),
        None if groups is None else np.tile(np.asarray(groups, dtype=np.str_), repeats),
    )


HISTORY = [
    {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "rate": 1e-3,
        "seconds": 1.0,
    }
    for epoch, train_loss, train_accuracy, val_loss, val_accuracy in (
        (0, None, None, 0.6, 0.7),
        (1, 0.5, 0.8, 0.5, 0.8),
        (2, 0.4, 0.9, 0.45, 0.85),
        (3, 0.3, 0.95, 0.55, 0.85),
    )
]

SELECTION = [
    {"C": c, "scaler": scaler, "score": 0.8 + 0.01 * index - (0.02 if scaler == "none" else 0.0)}
    for scaler in ("none", "standard")
    for index, c in enumerate((1e-4, 1e-2, 1.0))
]


class Lengths:
    """A task without classes, right or wrong: a number for each sample, the better the nearer."""

    name = "lengths"
    primary = "mae"
    shown = ("squared",)
    columns = ("length", "predicted")
    metrics: ClassVar = {
        "mae": mean_metric("mae", "mean error", lambda rows: np.abs(rows[:, 0] - rows[:, 1]), higher_is_better=False),
        "squared": mean_metric("squared", "squared error", lambda rows: (rows[:, 0] - rows[:, 1]) ** 2),
    }

    def labels(self, statistics):
        return statistics[:, 1].astype(np.str_)

    def cells(self, statistic):
        return [f"{statistic[1]:.6g}", f"{statistic[0]:.6g}"]

    def confidence(self, statistics):
        return None

    def guesses(self, known, asked):
        return [np.stack([np.full(len(asked), np.median(known[:, 1])), asked[:, 1]], axis=1)]

    def confusion(self, statistics):
        return None

    def uncalibrated(self):
        return self

    def to_json(self):
        return {"name": self.name}

    @classmethod
    def from_json(cls, content):
        return cls()


def lengths(errors) -> Predictions:
    """Predictions of lengths that are off by `errors`."""
    errors = np.asarray(errors, dtype=np.float64)
    true = np.arange(len(errors)) / 7
    names = range(len(errors))
    locations = [f"photos/{image}.png" for image in names]
    return Predictions(Lengths(), [key(image) for image in names], locations, np.stack([true + errors, true], axis=1))

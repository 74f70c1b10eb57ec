"""Finished runs to compare: result files as training leaves them, with predictions of a known quality."""

import hashlib
from pathlib import Path

import numpy as np

from pipeline.evaluation.results import Predictions, Result
from stages.tasks.evaluate import evaluate


def key(image: int) -> str:
    return hashlib.blake2b(str(image).encode(), digest_size=16).hexdigest()


def predictions(labels, wrong, classes=2, images=None, locations=None, confidence=0.9) -> Predictions:
    """Predictions that are wrong (the next class) where `wrong` says so, with equal confidence."""
    labels, wrong = np.asarray(labels), np.asarray(wrong, dtype=bool)
    images = range(len(labels)) if images is None else images
    predicted = (labels + wrong) % classes
    probabilities = np.full((len(labels), classes), (1 - confidence) / (classes - 1))
    probabilities[np.arange(len(labels)), predicted] = confidence
    locations = [f"photos/{image}.png" for image in images] if locations is None else locations
    return Predictions([key(image) for image in images], locations, labels, probabilities)


def result(
    predicted: Predictions, *, method="linear", name="logistic", seed=0, val=0.8, seconds=10.0, **fields
) -> Result:
    classes = predicted.probabilities.shape[1]
    return Result(
        **{
            "method": method,
            "name": name,
            "seed": seed,
            "samples": {"train": 100, "val": 20, "test": len(predicted)},
            "class_names": tuple(f"class {number}" for number in range(classes)),
            "val": {"accuracy": val},
            "test": evaluate(predicted.labels, predicted.probabilities),
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


def add(run: Path, predicted: Predictions, **fields) -> Path:
    """Write one result into a run; return its folder."""
    made = result(predicted, **fields)
    directory = run / f"seed-{made.seed}" / f"{made.method}-{made.name}"
    made.save(directory, predicted)
    return directory


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
    {"C": c, "scaler": scaler, "score": 0.8 + 0.01 * place - (0.02 if scaler == "none" else 0.0)}
    for scaler in ("none", "standard")
    for place, c in enumerate((1e-4, 1e-2, 1.0))
]

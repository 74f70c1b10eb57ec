"""A class for each pixel: softmax and cross-entropy at every place, mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cache.errors import DataError, UsageError
from stages.tasks.base import (
    Metric,
    Reduction,
    Statistics,
    TensorBatch,
    beside_primary,
    primary_metric,
    register_task,
    said_primary,
)
from stages.tasks.dense_metrics import class_ious, dense_metrics, mean_iou, pixel_accuracy, pixel_counts

VOID = 255
"""What a mask has where no class is known, by the custom of Pascal VOC."""

_MOST_CLASSES = VOID
"""Numbers of classes fit into 8 bits beside the one for void."""

_NOT_FINITE = "the predicted probabilities are not finite: the training diverged; try a lower rate"

_SHOWN_CLASSES = 3
"""Classes that a line about a map names, the largest first."""


@register_task("dense")
class Dense:
    """Each pixel of a sample is of one class, or of none that is known.

    A target is a mask, uint8 [H, W]: numbers of classes, `ignore` where none is known, which counts neither in the loss
    nor in a score. Masks of a batch are one tensor [b, H, W] where they are of one size, else b tensors. Outputs are
    logits [b, classes, h, w], brought to the size of each mask before they are activated. A statistic is the confusion
    matrix of a sample's pixels, int64 [classes, classes], the true class down and the predicted one across.

    Parameters
    ----------
    class_names : sequence of str
        In the order of their numbers.
    ignore : int
        What stands in a mask for no known class.
    primary : str, optional
        The metric that ranks, where it is not the mean intersection over union.

    Raises
    ------
    DataError
        If names are there twice, or are so many that their numbers do not fit into a mask.
    """

    name: str
    primary = "miou"
    outputs: Literal["logits", "values"] = "logits"
    calibrates = False
    reads: Literal["text", "image"] = "image"

    def __init__(self, class_names: Sequence[str], ignore: int = VOID, primary: str | None = None) -> None:
        self.class_names = tuple(class_names)
        self.ignore = ignore
        self.out_features = len(self.class_names)
        if not 1 <= self.out_features <= _MOST_CLASSES:
            raise DataError(f"masks tell 1 to {_MOST_CLASSES} classes apart, and here are {self.out_features}")
        if duplicates := sorted({name for name in self.class_names if self.class_names.count(name) > 1}):
            raise DataError(f"each class needs a name of its own; {', '.join(duplicates)} is there more than once")
        if not self.out_features <= ignore <= VOID:
            raise DataError(f"what stands for no class lies between the {self.out_features} classes and {VOID}")
        self.metrics: Mapping[str, Metric] = dense_metrics(self.out_features)
        if primary is not None:
            self.primary = primary_metric(self, primary).name
        self.shown: Sequence[str] = beside_primary(self, ("miou", "pixel_accuracy", "mean_accuracy"))
        self.columns: Sequence[str] = (
            *("largest_class", "predicted_largest_class", "pixel_accuracy", "miou"),
            *(f"iou_{name}" for name in self.class_names),
        )
        self.predicted_columns: Sequence[str] = ("class", *(f"share_{name}" for name in self.class_names))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dense) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.class_names, self.ignore, self.primary))

    def __reduce__(self) -> tuple[type[Dense], tuple[tuple[str, ...], int, str]]:
        # the metrics are closures, which other processes make for themselves
        return type(self), (self.class_names, self.ignore, self.primary)

    def load(self, raw: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return a mask, uint8 [H, W], that was read as numbers of classes.

        Raises
        ------
        DataError
            If it is no mask, or holds a number that is no class.
        """
        mask = torch.as_tensor(raw)
        if mask.ndim != 2 or not mask.numel():
            raise DataError(f"a mask has a number for each pixel, [H, W], and this one is {list(mask.shape)}")
        beyond = torch.unique(mask[(mask != self.ignore) & ((mask < 0) | (mask >= self.out_features))]).tolist()
        if beyond:
            numbers = ", ".join(map(str, beyond[:5])) + (", ..." if len(beyond) > 5 else "")
            raise DataError(f"a mask holds {numbers}, beyond the {self.out_features} classes")
        return mask.to(torch.uint8)

    def collate(self, targets: Sequence[Tensor]) -> TensorBatch:
        """Return uint8 [b, H, W], or the masks side by side where they differ in size."""
        return _together(targets)

    def loss(
        self,
        output: Tensor,
        target: TensorBatch,
        *,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        reduction: Reduction = "sum",
    ) -> Tensor:
        """Return the cross-entropy of logits [b, classes, h, w], of each sample the mean over its known pixels.

        Targets are at the outputs' own size, [b, h, w]; who trains thins them. A sample without a known pixel has a
        loss of 0. Computed in float32 whatever the type of the logits.
        """
        masks = _stacked(target).to(output.device)
        losses = functional.cross_entropy(
            output.float(),
            masks.long(),
            class_weights,
            ignore_index=self.ignore,
            reduction="none",
            label_smoothing=smoothing,
        )
        known = (masks != self.ignore).flatten(1).sum(dim=1)
        per_sample = losses.flatten(1).sum(dim=1) / known.clamp_min(1)
        return per_sample if reduction == "none" else per_sample.sum()

    def mean_loss(self, output: NDArray[np.float64], target: NDArray[Any]) -> float:
        """Return the mean of `loss` over logits [n, classes, h, w] and masks [n, h, w], in float64."""
        from scipy.special import log_softmax

        known = target != self.ignore
        classes = np.where(known, target, 0).astype(np.int64)
        losses = -np.take_along_axis(log_softmax(output, axis=1), classes[:, None], axis=1)[:, 0] * known
        return float((losses.sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)).mean())

    def activate(self, output: Tensor, shapes: Sequence[tuple[int, ...]] | None = None) -> TensorBatch:
        """Return the probabilities of the classes, float32 [b, classes, H, W], or b tensors where the sizes differ.

        Logits are brought to each size bilinearly, by the centers of pixels (``align_corners=False``): a map whose size
        was rounded up still covers the whole of its image.

        Parameters
        ----------
        output : Tensor [b, classes, h, w]
        shapes : sequence of (int, int), optional
            Height and width of each mask; without them probabilities stay as large as the logits.
        """
        logits = output.float()
        if shapes is None:
            return logits.softmax(dim=1)
        if len(set(shapes)) == 1:
            return _brought_to(logits, shapes[0]).softmax(dim=1)
        return tuple(
            _brought_to(logits[index : index + 1], shape).softmax(dim=1)[0] for index, shape in enumerate(shapes)
        )

    def predict(self, activated: TensorBatch) -> TensorBatch:
        """Return the most probable class of each pixel as masks, uint8 [b, H, W], or b of them."""
        return _together([highest(probabilities) for probabilities in activated])

    def values(self, activated: TensorBatch) -> NDArray[Any]:
        """Return predicted masks, uint8 [n, H, W]; of unlike sizes an array of n arrays."""
        masks = [mask.cpu().numpy() for mask in self.predict(activated)]
        if len({mask.shape for mask in masks}) == 1:
            return np.stack(masks)
        values = np.empty(len(masks), dtype=object)
        values[:] = masks
        return values

    def decode(self, predicted: Tensor) -> str:
        """Return a summary of a mask: its largest classes with their shares of the pixels whose class is known."""
        counts = np.bincount(predicted.cpu().numpy().ravel(), minlength=VOID + 1)[: self.out_features]
        if not counts.sum():
            return ""
        largest = np.argsort(-counts, kind="stable")[:_SHOWN_CLASSES]
        shares = ((self.class_names[place], counts[place] / counts.sum()) for place in largest if counts[place])
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares)

    def soft_target(self, target: TensorBatch) -> Tensor:
        """Refuse: what two masks blended would say of a pixel is no class.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError("masks cannot be blended: `mixup` and `cutmix` are not for a class for each pixel")

    def statistic(self, activated: TensorBatch, target: TensorBatch) -> Statistics:
        """Return the confusion matrix of each sample's known pixels, int64 [b, classes, classes].

        Raises
        ------
        DataError
            If a probability is not finite, or a mask holds a number that is no class.
        """
        if isinstance(activated, Tensor) and activated.device.type != "cpu" and isinstance(target, Tensor):
            return self._counted_at_once(activated, target)
        confusions = np.zeros((len(target), self.out_features, self.out_features), dtype=np.int64)
        for confusion, probabilities, mask in zip(confusions, activated, target, strict=True):
            if probabilities.shape != (self.out_features, *mask.shape):
                raise ValueError(
                    f"probabilities {tuple(probabilities.shape)} are not those of {self.out_features} classes for a "
                    f"mask of {tuple(mask.shape)}"
                )
            # a sum is not finite where a number in it is not, and takes a fraction of the time
            if not torch.isfinite(probabilities.sum()):
                raise DataError(_NOT_FINITE)
            truth = mask.to(probabilities.device).int()
            known, nowhere = truth != self.ignore, self.out_features**2
            if ((truth < 0) | (truth >= self.out_features)).logical_and_(known).any():
                raise DataError(f"there are targets outside the {self.out_features} classes")
            cells = torch.where(known, truth * self.out_features + highest(probabilities), nowhere)
            counts = torch.bincount(cells.flatten(), minlength=nowhere + 1)[:nowhere]
            confusion[:] = counts.cpu().numpy().reshape(self.out_features, self.out_features)
        return confusions

    def _counted_at_once(self, probabilities: Tensor, masks: Tensor) -> Statistics:
        """Return `statistic` of masks of one size, for which a GPU is waited for once."""
        classes = self.out_features
        if probabilities.shape != (len(masks), classes, *masks.shape[1:]):
            raise ValueError(f"probabilities {tuple(probabilities.shape)} are not those of masks {tuple(masks.shape)}")
        truth, nowhere = masks.to(probabilities.device, torch.int64, non_blocking=True), classes**2
        known = truth != self.ignore
        is_class = (truth >= 0) & (truth < classes)
        cells = torch.where(known & is_class, truth * classes + probabilities.argmax(dim=1), nowhere).flatten(1)
        counts = cells.new_zeros(len(masks), nowhere + 1).scatter_add_(1, cells, torch.ones_like(cells))
        faults = torch.stack([~torch.isfinite(probabilities.sum()), (known & ~is_class).any()])
        read = torch.cat([faults.long(), counts.flatten()]).cpu().numpy()
        if read[0]:
            raise DataError(_NOT_FINITE)
        if read[1]:
            raise DataError(f"there are targets outside the {classes} classes")
        return read[2:].reshape(len(masks), -1)[:, :nowhere].reshape(-1, classes, classes)

    def statistic_of_mask(self, predicted: NDArray[np.uint8], target: NDArray[np.uint8]) -> Statistics:
        """Return what `statistic` keeps of one sample, int64 [classes, classes], whose classes are predicted already.

        Parameters
        ----------
        predicted, target : uint8 [H, W]
        """
        known = target != self.ignore
        cells = target[known].astype(np.int64) * self.out_features + predicted[known]
        counts = np.bincount(cells, minlength=self.out_features**2)
        return counts.reshape(self.out_features, self.out_features)

    def guesses(self, known: Statistics, asked: Statistics) -> list[Statistics]:
        """Return the statistics of calling all pixels by the class that most pixels are of."""
        most = int(known.sum(axis=(0, 2)).argmax())
        guess = np.zeros_like(asked)
        guess[:, :, most] = asked.sum(axis=2)
        return [guess]

    def confusion(self, statistics: Statistics) -> NDArray[np.int64]:
        """Return the confusion matrix of all pixels, int64 [true, predicted]."""
        return np.asarray(statistics.sum(axis=0), dtype=np.int64)

    def labels(self, statistics: Statistics) -> NDArray[np.str_]:
        """Return the class that most of each sample's known pixels are of; '' where none is known."""
        counts = statistics.sum(axis=2)
        return np.array([self._largest(row) for row in counts], dtype=np.str_)

    def cells(self, statistic: Any) -> list[str]:
        """Return the largest class, the predicted one, and the scores of this sample alone; '' where not defined."""
        counts = pixel_counts(np.asarray(statistic))
        scores = (pixel_accuracy(counts), mean_iou(counts), *class_ious(counts).tolist())
        largest = (self._largest(counts[0]), self._largest(counts[1]))
        return [*largest, *("" if np.isnan(score) else f"{score:.6g}" for score in scores)]

    def predicted_cells(self, activated: Tensor) -> list[str]:
        """Return the largest class of a predicted map, from probabilities [classes, H, W], and the share of each."""
        return self.mask_cells(highest(activated).cpu().numpy())

    def mask_cells(self, mask: NDArray[Any]) -> list[str]:
        """Return what `predicted_cells` says, of a mask [H, W] of predicted classes."""
        counts = np.bincount(mask.ravel(), minlength=self.out_features)
        return [self._largest(counts), *(f"{share:.6f}" for share in counts / max(counts.sum(), 1))]

    def predicted_words(self, activated: Tensor) -> str:
        """Return the largest classes of a predicted map with their shares."""
        return self.decode(highest(activated))

    def confidence(self, statistics: Statistics) -> None:
        """Return None: counts of pixels do not say how sure they were."""

    def strata(self, target: NDArray[Any]) -> None:
        """Return None: nearly each class is in nearly each mask."""

    def weights(self, target: NDArray[Any]) -> None:
        """Return None: classes are balanced pixel by pixel, not by samples."""

    def in_units(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return the targets themselves."""
        return target

    def scaled_to(self, targets: NDArray[Any]) -> Dense:
        """Return the task itself."""
        return self

    def calibrated(self, activated: TensorBatch, target: TensorBatch) -> Dense:
        """Return the task itself."""
        return self

    def uncalibrated(self) -> Dense:
        """Return the task, ranked by its own metric."""
        return type(self)(self.class_names, self.ignore)

    def with_primary(self, name: str) -> Dense:
        """Return the task that is ranked by the metric of that name."""
        return type(self)(self.class_names, self.ignore, name)

    def to_json(self) -> dict[str, Any]:
        """Return the names of the task and the classes; void and metric if they are not the usual ones."""
        void = {} if self.ignore == VOID else {"ignore": self.ignore}
        return {"name": self.name, "class_names": list(self.class_names), **void, **said_primary(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Dense:
        """Return the task that `to_json` wrote.

        Raises
        ------
        DataError
            If there are no names of classes, or void is no number.
        """
        names, ignore = content.get("class_names"), content.get("ignore", VOID)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError("the task dense needs class_names, a list of words")
        if not isinstance(ignore, int):
            raise DataError("what the task dense ignores is a whole number")
        return cls(names, ignore, content.get("primary"))

    def _largest(self, counts: NDArray[Any]) -> str:
        return self.class_names[int(counts.argmax())] if counts.any() else ""


def highest(probabilities: Tensor) -> Tensor:
    """Return which class has the highest number at each place, uint8 [H, W], of [classes, H, W]; of equals the first.

    On a processor class by class, over all places at once: a tenth of the time of `argmax`, which goes place by place.
    """
    if probabilities.device.type != "cpu":
        return probabilities.argmax(dim=0).to(torch.uint8)
    best = probabilities[0].clone()
    number = torch.zeros(best.shape, dtype=torch.uint8)
    for place, of_class in enumerate(probabilities[1:], 1):
        number.masked_fill_(of_class > best, place)
        torch.maximum(best, of_class, out=best)
    return number


def _brought_to(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(logits.shape[-2:]) == tuple(shape):
        return logits
    return functional.interpolate(logits, size=shape, mode="bilinear", align_corners=False)


def _together(tensors: Sequence[Tensor]) -> TensorBatch:
    """Return tensors of one size stacked, others side by side."""
    return torch.stack(list(tensors)) if len({tensor.shape for tensor in tensors}) == 1 else tuple(tensors)


def _stacked(target: TensorBatch) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError("a loss needs masks of one size, thinned to that of the outputs")
    return target

"""Masks of the few test images that a page shows: what a method predicted of them, beside what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from pipeline.evaluation.predictions import DAMAGED_ARCHIVE, read_arrays, write_arrays
from stages.tasks.base import Statistics
from stages.tasks.dense_metrics import mean_iou, pixel_counts

EACH = 4
"""Images of the best, of the middling and of the worst that are shown."""

LONGEST = 512
"""Pixels on the longer side of a mask that is kept for the page; larger ones are thinned."""


@dataclass(frozen=True)
class ShownMasks:
    """Predicted and true masks of some test samples.

    Attributes
    ----------
    keys : bytes [k]
        Of the samples, as the method's predictions have them.
    predicted, true : sequence of uint8 [h, w]
        Numbers of classes, 255 where none is known; of one sample both in one size.
    """

    keys: NDArray[np.bytes_]
    predicted: Sequence[NDArray[np.uint8]]
    true: Sequence[NDArray[np.uint8]]

    @classmethod
    def of(
        cls, keys: NDArray[np.bytes_], predicted: Sequence[NDArray[np.uint8]], true: Sequence[NDArray[np.uint8]]
    ) -> ShownMasks:
        """Return masks as they are kept: every so many rows and columns of one that is large."""
        return cls(keys, [_thinned(mask) for mask in predicted], [_thinned(mask) for mask in true])

    def save(self, path: Path) -> None:
        """Write them into one archive."""
        predicted = {f"predicted_{number}": mask for number, mask in enumerate(self.predicted)}
        true = {f"true_{number}": mask for number, mask in enumerate(self.true)}
        write_arrays(path, {"keys": self.keys, **predicted, **true})

    @classmethod
    def load(cls, path: Path) -> ShownMasks | None:
        """Return what `save` wrote; None where nothing was.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path)
            keys = arrays["keys"]
            predicted, true = (
                [arrays[f"{kind}_{number}"] for number in range(len(keys))] for kind in ("predicted", "true")
            )
        except DAMAGED_ARCHIVE as error:
            raise DataError(f"{path} is damaged ({error}); train this method again") from error
        return cls(keys, predicted, true)


def places_to_show(statistics: Statistics, each: int = EACH) -> NDArray[np.int64]:
    """Return the samples that a page shows, int64 [k], best first: the best, those around the median, the worst.

    By each sample's own mean intersection over union; samples of which no pixel is known are not shown.
    """
    scores = np.array([mean_iou(counts) for counts in pixel_counts(statistics)])
    order = np.argsort(-scores, kind="stable")
    order = order[: len(scores) - int(np.isnan(scores).sum())]
    if len(order) <= 3 * each:
        return order
    middle = (len(order) - each) // 2
    return np.concatenate([order[:each], order[middle : middle + each], order[-each:]])


def _thinned(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = -(-max(mask.shape) // LONGEST)
    return np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])

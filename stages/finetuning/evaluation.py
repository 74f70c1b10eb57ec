"""What a transferred network answers for images: the mean over the renderings that it is tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.augment import TestTime
from stages.computing import computed
from stages.data import Manifest, Renderings, Request
from stages.extractor import Extractor
from stages.finetuning.images import require_readable
from stages.finetuning.upper import Upper
from stages.progress import progress


class Answers(NamedTuple):
    """What was answered for the next images.

    Attributes
    ----------
    indices : list of int
        Which of the images, ascending.
    probabilities : float32 [n, classes]
    failures : list of (index, reason)
        Images that could not be read.
    """

    indices: list[int]
    probabilities: NDArray[np.float32]
    failures: list[tuple[int, str]]


def answers(
    extractor: Extractor, upper: Upper, locations: Sequence[str], tta: TestTime = "none", label: str = "predict"
) -> Iterator[Answers]:
    """Yield what a network answers for images, in order, with a progress bar.

    Parameters
    ----------
    tta
        Test-time augmentation: the renderings whose probabilities are averaged; ``none`` is the evaluation view alone.
    """
    renderings = Renderings(extractor.backbone.preprocessing, tta)
    count = renderings.count
    requests = (Request(location, renderings, extractor.shorter_side) for location in locations)
    waiting: list[NDArray[np.float32]] = []  # a batch may end between two renderings of an image
    indices: list[int] = []
    with progress(label=label, total=len(locations), unit="images") as bar:
        for done in computed(
            requests, upper.probabilities, extractor.device, extractor.batch_size, extractor.threads, count
        ):
            waiting += [rows.astype(np.float32, copy=False) for rows in done.rows]
            indices += done.indices
            whole = len(indices) // count * count
            if whole or done.failures:
                rows = np.concatenate(waiting) if waiting else np.empty((0, 1), np.float32)
                yield Answers(indices[:whole:count], renderings.averaged(rows[:whole]), done.failures)
                waiting, indices = [rows[whole:]] if len(rows) > whole else [], indices[whole:]
            bar.update(whole // count + len(done.failures))


def image_probabilities(
    extractor: Extractor, upper: Upper, manifest: Manifest, tta: TestTime = "none"
) -> NDArray[np.float32]:
    """Return the probabilities, float32 [n, classes], of the manifest's images, all of which can be read.

    Raises
    ------
    DataError
        If one cannot be read any more.
    """
    found = []
    for some in answers(extractor, upper, manifest.locations, tta, label="evaluate"):
        require_readable(manifest, some.failures)
        found.append(some.probabilities)
    return np.concatenate(found)

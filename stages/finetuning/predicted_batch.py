"""What was answered for some images, however: by a network, or by a head on features that were there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PredictedBatch(NamedTuple):
    """What was answered for the next images.

    Attributes
    ----------
    indices : list of int
        Which of the images, ascending.
    activated : float32 [n, out_features]
        What the task makes of the network's outputs: probabilities, or values.
    failures : list of (index, reason)
        Images that could not be read.
    vectors : float32 [n, d], optional
        What the head was given of each, in its evaluation view: of a map the mean over its places, of several images
        theirs. None where no image was opened.
    """

    indices: list[int]
    activated: NDArray[np.float32]
    failures: list[tuple[int, str]]
    vectors: NDArray[np.float32] | None = None

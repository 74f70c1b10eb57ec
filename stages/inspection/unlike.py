"""Images unlike all that a model was trained on, by the distance of their features to the training images'.

Sun, Ming, Zhu & Li (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors", section 3: features as vectors
of length 1, and the distance to the k-th nearest of the training images, of which a part suffices. A model answers any
image with a class of its own, often a sure one; how sure it is says nothing of whether the image is of its kind.

The level comes from images that were held out: as many of them as `MARKED` says lie beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from cache.atomic_write import write_atomically
from cache.errors import DataError
from stages.runtime.float32 import float32_products
from stages.runtime.products import linear
from stages.runtime.tensor_files import load_tensors

NEIGHBORS = 0.05
"""Share of the training images that are nearer than the neighbor whose distance counts: of 1,000 the 50th.

With the first few neighbors 20 to 99 % of the handwritten digits were marked by a model of flowers, with this one 98 to
100 %; a class of 3 % of the images was marked about as often as the others with either.
"""

REFERENCES = 1000
"""Training images that others are compared with, at most: of 1,280 features each they take 2.6 MB on disk."""

HELD_OUT = 5000
"""Held-out images that the level comes from, at most."""

MARKED = 0.02
"""Share of held-out images that are to be marked, as few as can be where there are less than fifty."""

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class UnlikeDetector:
    """What tells images that are unlike the training images.

    Attributes
    ----------
    references : float16 Tensor [m, d]
        Features of training images, each a vector of length 1.
    level : float
        The distance, 1 - cosine, beyond which an image is unlike them.
    """

    references: Tensor
    level: float

    @classmethod
    def fit(cls, train: NDArray[np.floating], held_out: NDArray[np.floating]) -> UnlikeDetector:
        """Return the detector of features, [m, d], of training images and, [n, d], of others like them.

        Raises
        ------
        DataError
            If there is none of one of them.
        """
        if not len(train) or not len(held_out):
            raise DataError("what is unlike the training images is told from training and validation images")
        detector = cls(_directions(train).half(), math.inf)
        distances = np.sort(detector.distances(held_out))
        # so that the next image is beyond the level in as many cases as `MARKED` says, where enough are held out: the
        # quantile of split-conformal prediction (Vovk, Gammerman & Shafer 2005, section 4.2)
        rank = min(math.ceil((len(distances) + 1) * (1 - MARKED)), len(distances))
        return cls(detector.references, float(distances[rank - 1]))

    @float32_products()
    def distances(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the distance of each row of [n, d] to its k-th nearest reference, float32 [n]."""
        nearest = math.ceil(NEIGHBORS * len(self.references))
        references = self.references.float()
        parts = [
            1 - linear(_directions(vectors[start : start + _BLOCK_ROWS]), references).topk(nearest, dim=1).values[:, -1]
            for start in range(0, len(vectors), _BLOCK_ROWS)
        ]
        return np.asarray(torch.cat([torch.empty(0), *parts]).clamp_min(0).numpy())

    def scores(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the distance of each row of [n, d] as a multiple of the level, float32 [n]: unlike are those above 1.

        Raises
        ------
        DataError
            If these are no features as those of the training images.
        """
        width = self.references.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise DataError(
                f"features of the shape {[*vectors.shape[1:]]} cannot be compared with {width} numbers each"
            )
        return np.asarray(self.distances(vectors) / np.float32(max(self.level, 1e-6)))

    def save(self, path: Path) -> None:
        """Write it to a file of safetensors, which appears whole or not at all."""
        tensors = {"references": self.references.contiguous(), "level": torch.tensor([self.level], dtype=torch.float64)}
        write_atomically(path, safetensors.torch.save(tensors))

    @classmethod
    def load(cls, path: Path) -> UnlikeDetector:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If the file is damaged, or holds something else.
        """
        try:
            tensors = load_tensors(path)
            references, level = tensors["references"], float(tensors["level"][0])
            if references.ndim != 2 or not len(references):
                raise ValueError("there are no references")
            return cls(references, level)
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it, or train this method again") from error


def _directions(vectors: NDArray[np.floating]) -> Tensor:
    """Return rows as vectors of length 1, float32; one that has no direction is 0."""
    return functional.normalize(torch.from_numpy(np.asarray(vectors, np.float32)), dim=1)

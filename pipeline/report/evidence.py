"""What a page shows beside a prediction: nearest training images, where it comes from, all of them as points.

How it is found is ``pipeline.experiment.page_evidence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.inspection.feature_map import FeatureMap


@dataclass(frozen=True)
class Near:
    """A training image near another one: where it is, its target in words, and the cosine of their features."""

    location: str
    target: str
    cosine: float


@dataclass(frozen=True)
class HeatMap:
    """Where in an image a prediction comes from.

    Attributes
    ----------
    view : uint8 [H, W, 3], the image as the network sees it
    strengths : float32 [h, w], from 0 to 1, over all of the view
    """

    view: NDArray[np.uint8]
    strengths: NDArray[np.float32]


class Evidence(Protocol):
    """What can be said of the test samples of the method that a page says to take; '' and None where nothing can."""

    @property
    def features(self) -> str:
        """What the features are of, in words; '' where there are none."""

    @property
    def heat_of(self) -> str:
        """What heat maps are of, in words."""

    def nearest(self, keys: Sequence[str], count: int) -> list[list[Near]]:
        """Return the training images nearest to samples, by their keys, the nearest first; empty where unknown."""

    def heat_maps(self, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]) -> list[HeatMap | None]:
        """Return what in images speaks for classes, by their numbers; None where that cannot be had."""

    def feature_map(self, keys: Sequence[str]) -> FeatureMap | None:
        """Return samples as points in a plane."""

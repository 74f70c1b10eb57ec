"""What a page shows beside a prediction: nearest training images, where it comes from, all of them as points.

How it is found is ``pipeline.experiment.pages.page_evidence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
    view : ndarray of uint8 [H, W, 3]
        What the network sees.
    strengths : ndarray of float32 [h, w]
        Over it, 0 to 1.
    least_against : bool
        Whether all of the image speaks against what is predicted, and strengths are of where it does so less than it
        does on average.
    """

    view: NDArray[np.uint8]
    strengths: NDArray[np.float32]
    least_against: bool = False


class HeatMaps(NamedTuple):
    """One for each image that was asked for, and a sentence or two on those without; '' where nothing is to be said."""

    maps: list[HeatMap | None]
    note: str


class Evidence(Protocol):
    """What can be said of the test samples of the method that a page says to take; '' and None where nothing can."""

    @property
    def features(self) -> str:
        """What the features are of, in words; '' where there are none."""

    @property
    def near_of(self) -> str:
        """What the nearest training images are told by, in words."""

    @property
    def features_note(self) -> str:
        """Why there are neither nearest images nor points; '' where there are."""

    @property
    def heat_of(self) -> str:
        """What heat maps are of, in words."""

    def nearest(self, keys: Sequence[str], count: int) -> list[list[Near]]:
        """Return the training images nearest to samples, by their keys, the nearest first; empty where unknown."""

    def heat_maps(self, keys: Sequence[str], locations: Sequence[str], classes: Sequence[int]) -> HeatMaps:
        """Return what in images speaks for outputs, by their numbers, and why some have none."""

    def feature_map(self, keys: Sequence[str]) -> FeatureMap | None:
        """Return samples as points in a plane."""

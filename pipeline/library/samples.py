"""Samples of several images as a caller gives them, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.errors import UsageError, listed
from pipeline.library.images import Images, count_images
from stages.data.targets.arrays import is_unknown
from stages.network.aggregate import KINDS, Aggregate, AggregateKind, padded


@dataclass(frozen=True)
class SampleList:
    """The images of samples, one after the other, and where each belongs.

    Attributes
    ----------
    images : list
        All that there are, sample after sample.
    sizes : list of int
        How many of them each sample has.
    places : list of int
        The place of each in its sample: which view it is.
    count : int
        Places that the largest sample has.
    """

    images: list[Any]
    sizes: list[int]
    places: list[int]
    count: int

    @classmethod
    def of(cls, samples: Images) -> SampleList:
        """Take samples, each a sequence of images, or the rows of a data frame of paths; None is a missing view.

        Raises
        ------
        UsageError
            If a sample is no sequence, or has no image.
        """
        count_images(samples.to_numpy() if hasattr(samples, "columns") else samples)
        listed_samples = samples.to_numpy().tolist() if hasattr(samples, "to_numpy") else list(samples)
        views = [_views(sample, index) for index, sample in enumerate(listed_samples)]
        there = [[place for place, image in enumerate(of_sample) if not _is_missing(image)] for of_sample in views]
        if empty := [f"images[{index}]" for index, places in enumerate(there) if not places]:
            raise UsageError(f"{listed(empty, 3)}: a sample needs at least one image")
        return cls(
            [of_sample[place] for of_sample, places in zip(views, there, strict=True) for place in places],
            list(map(len, there)),
            [place for places in there for place in places],
            max(map(len, views), default=0),
        )

    def rows(self, features: NDArray[np.floating], kind: AggregateKind) -> NDArray[np.floating]:
        """Return a row for each sample of the features [m, d] of all images; NaN stands for an image without any.

        Raises
        ------
        UsageError
            If the rows of the images are no vectors, or are to stand side by side and a sample lacks one.
        """
        if features.ndim != 2:
            raise UsageError(
                f"samples of several images need vectors, and the rows are {[*features.shape[1:]]}: choose a `pool`"
            )
        lacking = [index for index, size in enumerate(self.sizes) if size < self.count]
        if kind == "concat" and lacking:
            raise UsageError(
                f"`aggregate` concat: images[{lacking[0]}] has {self.sizes[lacking[0]]} of {self.count} images, and "
                "what stands in for a missing one is learned from training samples; take mean or max"
            )
        bags = padded(torch.from_numpy(np.asarray(features, dtype=np.float32)), self.sizes, self.places, self.count)
        is_unknown = bags.isnan().any(dim=2)
        if kind != "concat":
            bags[is_unknown] = 0.0
        rows: NDArray[np.floating] = Aggregate(kind, self.count, features.shape[1])(bags).numpy()
        rows[~np.asarray(bags[:, :, -1].any(dim=1))] = np.nan
        return rows.astype(features.dtype)


def require_kind(kind: str | None) -> None:
    """Refuse another word for how images become a row than those that there are.

    Raises
    ------
    UsageError
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"`aggregate` {kind!r} is not one of {', '.join(KINDS)}")


def _views(sample: Any, index: int) -> list[Any]:
    if isinstance(sample, (str, bytes, PathLike, Image.Image, Mapping, Set)) or not hasattr(sample, "__len__"):
        raise UsageError(
            f"images[{index}] is one {type(sample).__name__}: with `aggregate` each sample is a sequence of images"
        )
    return list(sample)


def _is_missing(image: Any) -> bool:
    return is_unknown(image) or (isinstance(image, str) and image == "")

"""What up to 500 images of a data set have in common, looked at before features are extracted: values and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import DataError
from stages.config.features import FeatureConfig
from stages.config.pixel_values import ALL, COLORS, FULL, RGB, IntensityRange, parse_intensity_range, parse_page
from stages.data.images.decode import read_samples
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.images.samples import Samples, without_value
from stages.data.manifest import Manifest
from stages.data.sources.open_image import read_file
from stages.data.sources.registry import opener_of
from stages.runtime.progress import progress

IMAGES = 500
"""Most images that are looked at, the first by their keys: the same whatever the files are called."""

_VALUES = 10_000
"""Most values of an image that percentiles are taken from, spread over it."""

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of cameras."""


class Survey(NamedTuple):
    """What was found.

    Attributes
    ----------
    images : int
        Images that were looked at.
    options : FeatureConfig
        With what was found in place of the words that ask for it.
    words : list of str
        What was found, to be told.
    """

    images: int
    options: FeatureConfig
    words: list[str]


class _Seen(NamedTuple):
    """Of one image of more than 8 bits: its extremes, some values, and whether it holds floats or 32 bits."""

    low: float
    high: float
    values: NDArray[Any]
    without_depth: bool


def survey(manifest: Manifest, options: FeatureConfig) -> Survey:
    """Return the options with the intensity range and the channels that the images have.

    Parameters
    ----------
    manifest : Manifest
    options : FeatureConfig
        With an `intensity_range` of auto or percentiles, or `channels` all.

    Raises
    ------
    DataError
        If the images have different numbers of channels and all are asked for, or none can be read.
    """
    reading = Reading(page=parse_page(options.page))
    numbers: dict[int, str] = {}
    deep: list[_Seen] = []
    looked_at = 0
    images = manifest.distinct_images if manifest.images else (manifest.locations, manifest.keys)
    ordered = sorted((key, location) for location, key in zip(*images, strict=True))
    for _, location in progress(list(dict(ordered).items())[:IMAGES], label="look at images", unit="images"):
        if opener_of(location) is not None:
            continue
        try:
            samples = read_samples(read_file(location), reading)
        except UnreadableImageError:  # extraction lists it with its reason
            continue
        looked_at += 1
        numbers.setdefault(samples.values.shape[2], location)
        if samples.is_deep:
            deep.append(_seen(samples))
    words = []
    if options.channels == ALL:
        if numbers and numbers.keys() <= {1, COLORS}:  # gray ones are shown in three
            numbers, options = {COLORS: ""}, replace(options, channels=RGB)
        if len(numbers) != 1:
            found = "; ".join(f"{count}, as {location}" for count, location in sorted(numbers.items()))
            raise DataError(
                f"`channels` all: the images have different numbers of channels: {found or 'none was read'}"
            )
        if options.channels == ALL:
            options = replace(options, channels=",".join(map(str, range(*numbers))))
        words.append(f"{looked_at:,} images were looked at: `channels` all are {options.channels}")
    asked = parse_intensity_range(options.intensity_range)
    if not asked.is_resolved:
        found_range = _range_of(deep, asked)
        options = replace(options, intensity_range=str(found_range))
        kinds = f"{len(deep):,} of them have more than 8 bits" if deep else "none of them has more than 8 bits"
        words.append(f"{looked_at:,} images were looked at, {kinds}: `intensity_range` {asked} is {found_range}")
    return Survey(looked_at, options, words)


def _seen(samples: Samples) -> _Seen:
    values = samples.values
    measured = values[~without_value(samples)]
    measured = measured[np.isfinite(measured)]
    if not measured.size:
        return _Seen(0.0, 0.0, measured, without_depth=False)
    step = -(-measured.size // _VALUES)
    without_depth = values.dtype.kind == "f" or values.dtype.itemsize > 2 or bool(measured.min() < 0)
    return _Seen(float(measured.min()), float(measured.max()), measured[::step].astype(np.float64), without_depth)


def _range_of(deep: Sequence[_Seen], asked: IntensityRange) -> IntensityRange:
    """Return the range that images of more than 8 bits use, or the percentiles of their values."""
    values = np.concatenate([seen.values for seen in deep]) if deep else np.empty(0)
    if not values.size:
        return FULL
    if asked.kind == "percentile":
        low, high = (float(value) for value in np.percentile(values, [asked.low, asked.high]))
    else:
        low, high = min(seen.low for seen in deep), max(seen.high for seen in deep)
        if not any(seen.without_depth for seen in deep):
            low, high = 0.0, float(2 ** next(bits for bits in _DEPTHS if high < 2**bits) - 1)
    # what is written into files is what is computed with
    return parse_intensity_range(str(IntensityRange("values", low, high))) if low < high else FULL

"""How much each image of a sample counts, under a head that weighs them: shown with the images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from pipeline.evaluation.method_summary import MethodSummary
from pipeline.report.page_parts import template, thumbnail
from pipeline.run_layout import IMAGE_WEIGHTS

SAMPLES = 6
"""Samples that are shown: those with one image that counts most beyond its share."""

IMAGES = 6
"""Images of a sample that are shown: those that count most, in their order."""


@dataclass(frozen=True)
class Weighed:
    """One image of a sample.

    Attributes
    ----------
    location : str
    place : int
        Its number among the images of the sample, from 0; a missing one has a number too.
    weight : float
        Those of a sample sum to 1.
    """

    location: str
    place: int
    weight: float


@dataclass(frozen=True)
class WeighedSample:
    """A sample: pictures as data URIs, None for one that is not there any more, and how many images are not shown."""

    location: str
    pictures: list[tuple[str | None, Weighed]]
    others: int


def section(rows: Sequence[MethodSummary]) -> Markup | None:
    """Return what a page says of the weights of images, with the first seed; None where no method weighs them."""
    row, samples = next(((row, samples) for row in rows if (samples := _read(row))), (None, []))
    if row is None:
        return None
    options = row.results[0].options
    shown = [
        WeighedSample(
            images[0].location,
            [(thumbnail(image.location, options), image) for image in _heaviest(images)],
            max(len(images) - IMAGES, 0),
        )
        for images in sorted(samples, key=_beyond_its_share, reverse=True)[:SAMPLES]
    ]
    content = template("image_weights.html.j2").render(
        row=row,
        file=IMAGE_WEIGHTS,
        several=len(row.results) > 1,
        samples=shown,
        samples_in_all=len(samples),
        averages=_averages(samples, options.get("images") or ()),
    )
    return Markup(content)  # the template escapes what it is given


def _read(row: MethodSummary) -> list[list[Weighed]]:
    """Return the images of each test sample; none where the method left no weights."""
    directory = row.results[0].directory
    path = None if directory is None else Path(directory) / IMAGE_WEIGHTS
    if path is None or not path.exists():
        return []
    samples: dict[str, list[Weighed]] = {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line in csv.DictReader(file):
            image = Weighed(line["image"], int(line["place"]), float(line["weight"]))
            samples.setdefault(line["key"], []).append(image)
    return list(samples.values())


def _beyond_its_share(images: Sequence[Weighed]) -> float:
    """Return how many times what it would be, were all alike, the largest weight is."""
    return max(image.weight for image in images) * len(images)


def _heaviest(images: Sequence[Weighed]) -> list[Weighed]:
    heaviest = sorted(images, key=lambda image: image.weight, reverse=True)[:IMAGES]
    return sorted(heaviest, key=lambda image: image.place)


def _averages(samples: Sequence[Sequence[Weighed]], columns: Sequence[str]) -> list[tuple[str, float]]:
    """Return the mean weight of each column of images, of the samples that have it; none where places have no names."""
    weights: list[list[float]] = [[] for _ in columns]
    for image in (image for images in samples for image in images if image.place < len(columns)):
        weights[image.place].append(image.weight)
    return [(name, sum(of_it) / len(of_it)) for name, of_it in zip(columns, weights, strict=True) if of_it]

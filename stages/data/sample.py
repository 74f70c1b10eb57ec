"""A sample as a record: the images it consists of, its target, and what else is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageRef:
    """An image: where it is, and which one it is.

    Attributes
    ----------
    location : str
        What `read_image` takes.
    key : str
        Its identity in the cache.
    """

    location: str
    key: str


@dataclass(frozen=True)
class Sample:
    """A row of the manifest.

    Attributes
    ----------
    images : tuple of ImageRef
        The images of the thing that has the target.
    target : str
        As text: what the task's `load` reads.
    split : str
        'train', 'val' or 'test'.
    group : str
        What the sample is of (a patient, a product, a video), '' where it is on its own.
    stratum : str
        Kind of sample among those of the same target, '' where none is told apart.
    extra : mapping of str to str
        What else the source says of the sample, by the name of the column.
    """

    images: tuple[ImageRef, ...]
    target: str
    split: str = ""
    group: str = ""
    stratum: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

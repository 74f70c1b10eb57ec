"""What there is to choose from: every network that can be listed, with what is published of it. None is built here.

A family says what it knows of its networks by the function `catalog` of its registration; what is not published stays
None, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

WeightsState = Literal["here", "download", "install", "none"]
"""Of pretrained weights: on this machine, to be downloaded if asked for, in a package that is missing, or not made."""


@dataclass(frozen=True)
class CatalogEntry:
    """A network, as ``zoo`` lists it.

    Attributes
    ----------
    name : str
        What ``backbone`` takes.
    image_size : int or None
        Side of its images, in pixels, where no other is asked for.
    weights : str or None
        Where its pretrained weights are; None where its family does not say.
    license : str or None
        Of the weights, as whoever published them calls it.
    accuracy : float or None
        Published top-1 accuracy on ImageNet-1k's validation images, from 0 to 1.
    accuracy_image_size : int or None
        At which image size that was, where it is another than `image_size`.
    parameters, multiply_adds : int or None
        Of the whole network, for one image of `image_size`.
    counted_as : str
        What its counts are remembered under; networks of one architecture, size and number of classes share it.
    """

    name: str
    image_size: int | None = None
    weights: WeightsState | None = None
    license: str | None = None
    accuracy: float | None = None
    accuracy_image_size: int | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    counted_as: str = ""

    @property
    def is_counted(self) -> bool:
        """Whether parameters and multiply-adds are known."""
        return self.parameters is not None and self.multiply_adds is not None

    def with_counts(self, counts: Mapping[str, tuple[int, int]]) -> CatalogEntry:
        """Return the entry with what was counted of it, where that is not published."""
        if self.is_counted or self.counted_as not in counts:
            return self
        parameters, multiply_adds = counts[self.counted_as]
        return replace(self, parameters=parameters, multiply_adds=multiply_adds)


SortKey = Literal["accuracy", "parameters", "multiply-adds", "pixels", "name"]
"""What a list of networks is ordered by."""


def find_entries(entries: Iterable[CatalogEntry], search: str = "", *, only_here: bool = False) -> list[CatalogEntry]:
    """Return the entries whose names hold every word of `search`, in any order and case.

    Parameters
    ----------
    entries
    search
        Words with blanks between.
    only_here
        Only those whose weights are on this machine.
    """
    words = search.lower().split()
    return [
        entry
        for entry in entries
        if all(word in entry.name.lower() for word in words) and (entry.weights == "here" or not only_here)
    ]


def sort_entries(entries: Iterable[CatalogEntry], by: SortKey) -> list[CatalogEntry]:
    """Return the entries in order: the most accurate first, or the smallest; what is not known comes last."""

    def key(entry: CatalogEntry) -> tuple[bool, float, str]:
        value = {
            "accuracy": None if entry.accuracy is None else -entry.accuracy,
            "parameters": entry.parameters,
            "multiply-adds": entry.multiply_adds,
            "pixels": entry.image_size,
            "name": 0,
        }[by]
        return value is None, value or 0, entry.name

    return sorted(entries, key=key)

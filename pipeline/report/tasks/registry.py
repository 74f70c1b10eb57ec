"""What a page shows of its task: the kind of thing that is registered, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cache.errors import DataError
from cache.registry import Registration, Registry
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.method_summary import MethodSummary
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.results import Result
from pipeline.report.evidence import Evidence
from pipeline.report.page_parts import THUMBNAIL, Figures, template, thumbnail
from pipeline.run_layout import MANIFEST
from stages.data.manifest import Manifest

IMAGES_SHOWN = 6
"""Images of a sample that are shown of it."""


@dataclass(frozen=True)
class PageContext:
    """What the part of a page that is a task's own is made from.

    Attributes
    ----------
    comparison : Comparison
    drawn : Figures
        Takes figures.
    configuration : mapping
        Options of the run, by their names.
    evidence : Evidence or None
        What stands beside predictions.
    """

    comparison: Comparison
    drawn: Figures
    configuration: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = None

    @property
    def first(self) -> MethodSummary:
        """The method to take, of which single samples are shown."""
        return self.comparison.choice.chosen

    @property
    def predictions(self) -> Predictions:
        """Those of the best method with the first seed."""
        return self.first.results[0].predictions

    @cached_property
    def manifest(self) -> Manifest | None:
        """The samples of the first seed; None where they are not there any more."""
        return _manifest_of(self.first.results[0])

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """The place of each prediction in the order of keys, [n]: the same place is the same image for every method."""
        position = np.empty(len(self.predictions), dtype=np.int64)
        position[self.predictions.key_order] = np.arange(len(position))
        return position

    def thumbnails(self, index: int, side: int = THUMBNAIL) -> list[str | None]:
        """Return the images of one of the predictions as data URIs; None for one that is not there any more."""
        options, location = self.first.results[0].options, str(self.predictions.locations[index])
        samples = self._samples_of_several_images
        if samples is None:
            return [thumbnail(location, options, side)]
        key = self.predictions.keys[index].decode()
        images = samples.get(key, [location])
        return [thumbnail(image, options, side) for image in images[:IMAGES_SHOWN]]

    @cached_property
    def _samples_of_several_images(self) -> dict[str, list[str]] | None:
        """Where the images of each sample are, by its key; None where each has one image."""
        if self.manifest is None or not self.manifest.images:
            return None
        views = zip(self.manifest.keys, self.manifest.images, strict=True)
        return {key: [image.location for image in images if image is not None] for key, images in views}

    def render(self, name: str, **values: Any) -> Markup:
        """Return what a template of this folder makes of values; `first`, `rows` and `several` (seeds) are given."""
        comparison = self.comparison
        content = template(f"tasks/{name}").render(
            comparison=comparison,
            first=self.first,
            rows=comparison.rows,
            several=len(comparison.seeds) > 1,
            **values,
        )
        return Markup(content)  # the template escapes what it is given


@dataclass(frozen=True)
class TaskPart:
    """What a page shows of its task.

    Attributes
    ----------
    subject : str
        What is predicted, in a few words: ``10 classes``; '' for nothing.
    baseline : str
        What is reached without a look at an image, as a sentence; '' for nothing.
    sections : Markup
        Between what was tried and the notes.
    """

    subject: str
    baseline: str
    sections: Markup


MakeTaskPart = Callable[[PageContext], TaskPart]

TASK_PAGES = Registry[Registration, MakeTaskPart]("task page", Registration, ["pipeline.report.tasks"], option="task")


def register_task_page(name: str, *, help_text: str = "") -> Callable[[MakeTaskPart], MakeTaskPart]:
    """Make a function what a page shows of the task of that name; a literal in our own files.

    Raises
    ------
    UsageError
        If another function is registered for it.
    """
    return TASK_PAGES.decorator(Registration(name, help_text=help_text))


def task_part(context: PageContext) -> TaskPart:
    """Return what the page shows of its task; of one for which nothing is registered, what there is of classes."""
    name = context.comparison.task.name
    return TASK_PAGES.get(name if name in TASK_PAGES.names() else "single_label")(context)


def _manifest_of(result: Result) -> Manifest | None:
    if result.directory is None:
        return None
    try:
        return Manifest.load(result.directory.parent / MANIFEST)
    except DataError:
        return None

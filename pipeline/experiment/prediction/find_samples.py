"""New samples of several images, as a model knows them: rows and columns of tables, folders and videos."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.data.sources.csv_file import is_table, read_sample_table
from stages.data.sources.folder_tree import IMAGE_EXTENSIONS, FolderNotes, images_below
from stages.data.sources.sample_images import Views, chosen_frames, first_image
from stages.data.sources.video import VIDEO_EXTENSIONS, is_video
from stages.runtime.natural_order import natural_key

_LOG = logging.getLogger("cutonce")

_OF_SAMPLES = ("images", "sample", "frames")
"""Options of the data that say what a sample is."""


@dataclass(frozen=True)
class NewSample:
    """A sample that is to be predicted.

    Attributes
    ----------
    location : str
        What it is called: its folder, its video, or its first image.
    images : tuple of str or None
        Where its images are, in order; None is a view that is missing.
    extra : mapping of str to str
        What its table says of it besides.
    """

    location: str
    images: Views
    extra: Mapping[str, str] = field(default_factory=dict)


def sample_options(data: DataConfig | None) -> dict[str, Any]:
    """Return the options by which a model's samples were made, as JSON values."""
    options = {} if data is None else asdict(data)
    return {name: list(options[name]) if name == "images" else options[name] for name in _OF_SAMPLES if name in options}


def find_samples(paths: Sequence[Path], made_with: Mapping[str, Any]) -> list[NewSample]:
    """Return the samples in tables, folders and files.

    A row of a table is a sample, or all rows of one word in its column sample; each folder that holds images is one,
    however deep it lies, each video, and each file that is given.

    Parameters
    ----------
    paths : sequence of Path
    made_with : mapping
        What `sample_options` gave of the data that the model was trained on.

    Raises
    ------
    UsageError
        If nothing is given, a path does not exist, or the model needs columns that a folder has not.
    DataError
        If a table cannot be used.
    """
    options = DataConfig("", **{name: made_with[name] for name in _OF_SAMPLES if name in made_with})
    if options.sample == "folder":
        options = replace(options, sample="auto")  # which in a table joins rows
    samples: list[NewSample] = []
    for path in paths:
        if path.is_file() and is_table(path):
            records, notes = read_sample_table(path, options)
            images = records.images or [(location,) for location in records.locations]
            for index, views in enumerate(images):
                extra = {name: column[index] for name, column in records.extra.items()}
                samples.append(NewSample(first_image(views), views, extra))
            for note in notes:
                _LOG.info(f"note: {note}")
        elif not path.exists():
            raise UsageError(f"{path}: there is no such image or folder")
        elif options.images:
            raise UsageError(
                f"{path}: this model takes samples with the images {', '.join(options.images)}: give a table with "
                "these columns"
            )
        elif path.is_dir():
            samples += _in_folder(path, options)
        else:
            samples.append(NewSample(str(path), chosen_frames((str(path),), options.frames)))
    if not samples:
        raise UsageError("no sample to predict: give folders of images, videos, or tables that list some")
    return samples


def _in_folder(folder: Path, options: DataConfig) -> list[NewSample]:
    endings = IMAGE_EXTENSIONS if options.frames is None else IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    members: dict[str, list[str]] = defaultdict(list)
    for location in images_below(folder, FolderNotes(folder), endings):
        members[location if is_video(location) else os.path.dirname(location)].append(location)  # noqa: PTH120
    samples = []
    for name in sorted(members, key=natural_key):
        images = sorted(members[name], key=natural_key)
        samples.append(NewSample(name, chosen_frames(tuple(images), options.frames)))
    return samples

"""Folders as a source: ``root/<class>/*``, ``root/<split>/<class>/*`` and ``root/<class>/<split>/*``.

Where masks lie beside images there are no classes; see ``folder_masks``. Inside a class each image is a sample, or each
folder is one, and each video; see ``sample_images``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cache.errors import DataError, UsageError, listed
from stages.config.data import DENSE, DataConfig
from stages.data.sources.folder_masks import MASK_LAYOUT, find_mask_folders, list_masked_images
from stages.data.sources.folder_splits import LAYOUT, find_parts
from stages.data.sources.folder_tree import IMAGE_EXTENSIONS, FolderNotes, find_subfolders, images_below
from stages.data.sources.records import SPLIT_NAMES, Progress, SourceRecords, sort_class_names, unlabeled_records
from stages.data.sources.registry import register_source
from stages.data.sources.sample_images import join_folders, with_frames
from stages.data.sources.video import VIDEO_EXTENSIONS


@register_source("folder", takes_path=Path.is_dir, help_text="a folder (root/class/* or root/split/class/*)")
def list_folder(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the images below the folder `data`, their classes by the folders they are in.

    Images that lie in the folder itself, with no folder beside them, have no classes. Images deeper inside a class
    folder count; hidden files and folders do not, nor do those of systems and of this program.

    Raises
    ------
    DataError
        If there are no images, or the names can be read in two ways.
    UsageError
        If the option `folders` names none that is there.
    """
    root = Path(options.data)
    if options.images:
        raise UsageError(f"`images` names columns of a table, and `data` {root} is a folder")
    found = FolderNotes(root)
    if mask_folders := find_mask_folders(root, options):
        return list_masked_images(root, mask_folders)
    if options.task == DENSE:
        raise DataError(f"{root} has no masks beside images; {MASK_LAYOUT}")
    folders = find_subfolders(root, found)
    if not folders:
        reason = f"{root} has no folders of images in it; {LAYOUT}"
        if not (images := images_below(root, found)):
            raise DataError(reason)
        return unlabeled_records(images, reason, found.texts())
    # a video is read where `frames` says how many images of it are wanted
    endings = IMAGE_EXTENSIONS if options.frames is None else IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    parts, notes = find_parts(root, folders, options.folders)
    samples: list[tuple[str, str, str, str]] = []
    empty_folders: list[str] = []
    for split, part in parts:
        for folder in folders if part == root else find_subfolders(part, found):
            images = images_below(folder, found, endings)
            samples += [(image, folder.name, split, _between(folder, image)) for image in images]
            if not images:
                empty_folders.append(found.name(folder))
    if not samples:
        videos = "" if VIDEO_EXTENSIONS.isdisjoint(found.ignored) else ". Videos are read with `frames`, as 16"
        raise DataError(f"{root} has no images in its folders{found.endings()}; {LAYOUT}{videos}")
    locations, targets, splits, subfolders = (list(column) for column in zip(*samples, strict=True))
    if empty_folders:
        notes.append(f"no images in {', '.join(empty_folders)}: not counted as a class")
    if not any(splits) and not options.folders and _holds_splits(root, subfolders):
        splits = [SPLIT_NAMES[subfolder.partition("/")[0].lower()] for subfolder in subfolders]
        subfolders = [subfolder.partition("/")[2] for subfolder in subfolders]
        notes.append("the folders in each class are its splits; `folders` classes draws the splits anew")
    records = SourceRecords(
        locations,
        targets,
        sort_class_names(targets),
        splits,
        [""] * len(locations),
        subfolders=subfolders if any(subfolders) else [],
        notes=[*notes, *found.texts()],
    )
    return with_frames(join_folders(records, options), options, progress)


def _between(folder: Path, image: str) -> str:
    """Return the folders between a class folder and an image in it, with / between them; nothing if there are none."""
    inner = image[len(str(folder)) + 1 :].rpartition(os.sep)[0]
    return inner.replace(os.sep, "/")


def _holds_splits(root: Path, subfolders: Sequence[str]) -> bool:
    """Return whether the first folders inside the classes are splits, all of them.

    Raises
    ------
    DataError
        If several are, and images lie beside them.
    """
    names = {subfolder.partition("/")[0] for subfolder in subfolders}
    splits = sorted(name for name in names if name.lower() in SPLIT_NAMES)
    if len({SPLIT_NAMES[name.lower()] for name in splits}) < 2:
        return False
    if others := sorted(names.difference(splits)):
        raise DataError(
            f"{root}: in the class folders are {', '.join(splits)}, which look like splits, and beside them "
            f"{listed([name or 'images in no such folder' for name in others])}. If all images are to count and the "
            "splits are to be drawn from them, say `folders` classes; otherwise move the others away"
        )
    return True

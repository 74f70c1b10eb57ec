"""Folders as a source: ``root/<class>/*`` and ``root/<split>/<class>/*``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.sources.records import SPLIT_NAMES, Progress, SourceRecords, sort_class_names
from stages.data.sources.registry import register_source

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .heic .heif"  # noqa: SIM905
    " .ppm .pgm .pbm .pnm .tga .ico .icns .jp2 .j2k .jpx .pcx .sgi .xbm .dds .psd .qoi".split()
)
"""Files with these endings are taken for images; one that cannot be read is listed with its reason later."""

_LAYOUT = "expected ROOT/CLASS/image.jpg or ROOT/SPLIT/CLASS/image.jpg (splits: train, val, test)"


@register_source("folder", takes_path=Path.is_dir, help_text="a folder (root/class/* or root/split/class/*)")
def list_folder(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the images below the folder `data`, their classes by the folders they are in.

    Images deeper inside a class folder count; hidden files and folders do not.

    Raises
    ------
    DataError
        If there are no class folders, or no images in them.
    """
    root = Path(options.data)
    folders = _subfolders(root)
    if not folders:
        raise DataError(f"{root} has no folders of images in it; {_LAYOUT}")
    split_folders = _split_folders(root, folders)
    parts = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in split_folders] or [("", root)]
    ignored: Counter[str] = Counter()
    samples: list[tuple[str, str, str]] = []
    empty_folders: list[str] = []
    for split, part in parts:
        for folder in _subfolders(part):
            images = _images(folder, ignored)
            samples += [(image, folder.name, split) for image in images]
            if not images:
                empty_folders.append(str(folder.relative_to(root)))
    if not samples:
        raise DataError(f"{root} has no images in its folders{_ignored(ignored)}; {_LAYOUT}")
    locations, targets, splits = (list(column) for column in zip(*samples, strict=True))
    notes = [f"no images in {', '.join(empty_folders)}: not counted as a class"] if empty_folders else []
    if ignored:
        notes.append(f"ignored {ignored.total()} files that are not images by their name{_ignored(ignored)}")
    return SourceRecords(locations, targets, sort_class_names(targets), splits, [""] * len(locations), notes=notes)


def _split_folders(root: Path, folders: list[Path]) -> list[Path]:
    """Return the folders if they are splits with class folders in them, nothing if they are classes.

    Raises
    ------
    DataError
        If they look like splits but cannot be read as such: better refused than trained on as classes.
    """
    split_folders = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    names = ", ".join(folder.name for folder in split_folders)
    with_classes = [folder for folder in split_folders if _subfolders(folder)]
    if len(split_folders) == len(folders):
        if len(with_classes) == len(split_folders):
            return split_folders
        if len({SPLIT_NAMES[folder.name.lower()] for folder in split_folders}) > 1:
            lacking = ", ".join(folder.name for folder in split_folders if folder not in with_classes)
            raise DataError(f"{root} has the splits {names}, but there are no class folders in {lacking}; {_LAYOUT}")
    elif len({SPLIT_NAMES[folder.name.lower()] for folder in with_classes}) > 1:
        rest = ", ".join(folder.name for folder in folders if folder not in split_folders)
        raise DataError(
            f"{root} has the splits {names} and beside them {rest}; "
            "move the others away, or point `data` at a CSV file (path,label,split)"
        )
    return []


def _images(folder: Path, ignored: Counter[str]) -> list[str]:
    """Return the image files anywhere in `folder`, sorted; count what else is there by its ending."""
    images = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 (names may be anything; a Path is not needed)
            if name.startswith("."):
                continue
            if ending in IMAGE_EXTENSIONS:
                images.append(os.path.join(parent, name))  # noqa: PTH118 (a million times)
            else:
                ignored[ending or "no ending"] += 1
    return sorted(images)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _ignored(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{ending} {count}' for ending, count in counts.most_common(5))})" if counts else ""

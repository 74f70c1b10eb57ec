"""Masks that lie in the folder of their images: ``a.jpg`` with ``a_mask.png``, or ``a.jpg`` with ``a.png``."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stages.data.sources.folder_tree import IMAGE_EXTENSIONS, leads_to

_PHOTOGRAPHS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif"))
"""Of two files of one name, the one with such an ending is the image: no mask is saved so on purpose."""


def images_and_masks(files: Sequence[str], mask_suffix: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Return which of the files in one folder, or below it, are images, and which are masks of such.

    Those are masks whose name is that of another file and a word for masks; where there are none, those that have the
    name of a photograph and are no photographs.

    Parameters
    ----------
    files
        Paths.
    mask_suffix
        A word for masks at the end of a name.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[_stem(file)].append(file)
    masks = {
        file
        for name, of_name in by_name.items()
        if (image := mask_suffix.sub("", name)) != name and image in by_name and mask_suffix.sub("", image) == image
        for file in of_name
    }
    if not masks:
        for of_name in by_name.values():
            others = [file for file in of_name if _ending(file) not in _PHOTOGRAPHS]
            if len(others) == 1 and len(of_name) == 2:
                masks.add(others[0])
    return [file for file in files if file not in masks], [file for file in files if file in masks]


def holds_both(folder: Path, mask_suffix: re.Pattern[str], *, photographs: bool = True) -> bool:
    """Return whether half of the images that lie in a folder itself, or more, have their masks beside them.

    Whether `photographs` may be masks: else ``shoe_l.jpg`` beside ``shoe.jpg`` is another photograph.
    """
    try:
        with os.scandir(os.fspath(folder)) as entries:
            files = [
                entry.path
                for entry in entries
                if not entry.name.startswith(".")
                and _ending(entry.name) in IMAGE_EXTENSIONS
                and leads_to(entry, os.DirEntry.is_file)
            ]
    except OSError:
        return False
    images, masks = images_and_masks(files, mask_suffix)
    if not photographs:
        masks = [mask for mask in masks if _ending(mask) not in _PHOTOGRAPHS]
    return bool(masks) and 2 * len(masks) >= len(images)


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122 (many times)


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (many times)

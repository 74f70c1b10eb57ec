"""Folders of images with folders of masks beside them: which mask is of which image, and of which split both are.

``images/`` and ``masks/``, with splits inside each of them or around both, and ``train/`` with ``trainannot/``; or both
in one folder. A mask has the name of its image, but for its ending and for a word that says what it is.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cache.errors import DataError, listed
from stages.config.data import AUTO, CLASSES, DENSE, DataConfig
from stages.data.masks.class_table import find_class_table
from stages.data.sources.folder_tree import FolderNotes, find_subfolders, images_below
from stages.data.sources.masks_in_place import holds_both, images_and_masks
from stages.data.sources.records import SPLIT_NAMES, SourceRecords
from stages.data.sources.target_columns import MASK

MASK_LAYOUT = (
    "expected ROOT/images/a.jpg with ROOT/masks/a.png, splits inside each or around both (ROOT/train/images, "
    "ROOT/train/masks), ROOT/train with ROOT/trainannot, or a.jpg with a_mask.png or a.png in one folder"
)

_IMAGE_WORD = r"images?|imgs?|jpegimages|leftimg8bit|rgb|photos?|pictures?|inputs?"
_MASK_WORD = (
    r"masks?|labels?|annotations?|annots?|groundtruths?|ground[-_]truths?|gts?|gtfine|segmentationclass|segmentations?"
    r"|segs?|labelmaps?|targets?"
)
_FOLDER = re.compile(
    rf"(?:(?P<base>.*?)[-_ .]?)?(?:(?P<image>{_IMAGE_WORD})|(?P<mask>{_MASK_WORD}))"
    rf"|(?:(?P<image_first>{_IMAGE_WORD})|(?P<mask_first>{_MASK_WORD}))[-_ .](?P<base_after>.+)",
    re.IGNORECASE,
)
"""The name of a folder: a word that says what is in it, before or after a name that both have."""

_IMAGE_SUFFIX = re.compile(r"[-_ .](?:leftimg8bit|image|img|rgb|sat)$", re.IGNORECASE)
_MASK_SUFFIX = re.compile(
    rf"[-_ .](?:{_MASK_WORD}|l|p|gtfine_labelids|gtfine_labeltrainids|labelids|trainids)$", re.IGNORECASE
)
"""What stands at the end of a file's name for what is in it."""

_LISTS = (".", "ImageSets/Segmentation", "splits")
"""Where lists of the names of a split may be: train.txt, val.txt, test.txt."""

_NAMED = 5
"""Most files that a note names."""


class FolderPair(NamedTuple):
    """A folder of images and the one of their masks, and the split that both are; '' where that is inside them."""

    images: Path
    masks: Path
    split: str


def find_mask_folders(root: Path, options: DataConfig) -> list[FolderPair]:
    """Return the folders of images in `root` that have folders of masks beside them; none where there are none.

    With the task `dense` any two folders of such names count; else those that are called by such a word alone, or
    after a split, so that no class is taken for another one's masks.
    """
    if options.task not in (AUTO, DENSE) or options.folders == (CLASSES,):
        return []
    pairs = _pairs_in(root, options, "")
    if pairs:
        return pairs
    folders = find_subfolders(root, FolderNotes(root))
    for folder in folders:
        if split := SPLIT_NAMES.get(folder.name.lower()):
            in_place = [FolderPair(folder, folder, split)] * _holds_masks(folder, options)
            pairs += _pairs_in(folder, options, split) or in_place
    if pairs:
        return pairs
    below = options.task == DENSE and any(_holds_masks(folder, options) for folder in folders)
    return [FolderPair(root, root, "")] * (below or _holds_masks(root, options))


def _holds_masks(folder: Path, options: DataConfig) -> bool:
    """Return whether masks lie beside their images in a folder itself; beside folders that may be classes, if asked."""
    if options.task == DENSE:
        return holds_both(folder, _MASK_SUFFIX)
    return not find_subfolders(folder, FolderNotes(folder)) and holds_both(folder, _MASK_SUFFIX, photographs=False)


def list_masked_images(root: Path, pairs: Sequence[FolderPair]) -> SourceRecords:
    """Return the images of folders with the masks of the same names, as targets in a column ``mask``.

    An image without a mask has no target, and a mask without an image is left out: both are said.

    Raises
    ------
    DataError
        If no image has a mask, or one may have several.
    """
    found = FolderNotes(root)
    locations: list[str] = []
    masks: list[str] = []
    splits: list[str] = []
    unused: list[str] = []
    for pair in pairs:
        images = images_below(pair.images, found)
        if pair.images == pair.masks:
            images, of_pair = images_and_masks(images, _MASK_SUFFIX)
        else:
            of_pair = images_below(pair.masks, found, _ENDINGS)
        mask_of, left = _matched(pair, images, of_pair)
        for image in images:
            locations.append(image)
            masks.append(mask_of.get(image, ""))
            splits.append(pair.split or _first_folder(pair.images, image))
        unused += left
    if not any(masks):
        raise DataError(_nothing_matches(pairs, found))
    notes = []
    listed_in, lists = _split_lists(root)
    if not any(splits) and lists:
        splits = [lists.get(Path(location).stem, "") for location in locations]
        kept = [index for index, split in enumerate(splits) if split]
        if kept:
            notes.append(f"the splits are those that {listed_in} lists")
            unlisted = len(locations) - len(kept)
            notes += [f"{unlisted:,} images are in no list and are left out"] * bool(unlisted)
            locations, masks, splits = ([column[index] for index in kept] for column in (locations, masks, splits))
    if not all(splits):
        splits = [""] * len(splits)
    if unused:
        names = listed([found.name(mask) for mask in unused], _NAMED)
        notes.append(f"masks without an image: {len(unused):,}, left out ({names})")
    taken = {part for pair in pairs for part in (pair.images, pair.masks)}
    others = [
        folder.name
        for folder in find_subfolders(root, FolderNotes(root))
        if root not in taken and not any(folder == part or folder in part.parents for part in taken)
    ]
    notes += [f"left out the folders {listed(others)}: they are neither images nor masks"] * bool(others)
    blank = [""] * len(locations)
    return SourceRecords(
        locations,
        masks,
        (),
        splits,
        blank,
        notes=[*notes, *found.texts()],
        target_columns={MASK: masks},
        class_table=find_class_table([root, *(pair.masks for pair in pairs), *(pair.masks.parent for pair in pairs)]),
    )


def _pairs_in(folder: Path, options: DataConfig, split: str) -> list[FolderPair]:
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = defaultdict(list)
    plain: dict[str, Path] = {}
    for child in find_subfolders(folder, FolderNotes(folder)):
        match = _FOLDER.fullmatch(child.name)
        if match is None:
            plain[child.name.lower()] = child
            continue
        base = (match["base"] or match["base_after"] or "").lower()
        if match["image"] or match["image_first"]:
            images[base] = child
        else:
            masks[base].append(child)
    pairs = []
    for base, of_base in masks.items():
        source = images.get(base) or (plain.get(base) if base else None)
        if source is None or not (base == "" or base in SPLIT_NAMES or options.task == DENSE):
            continue
        if len(of_base) > 1:
            names = " and ".join(path.name for path in of_base)
            raise DataError(f"{folder}: {names} may both be the masks of {source.name}: move one of them away")
        pairs.append(FolderPair(source, of_base[0], split or SPLIT_NAMES.get(base, "")))
    return pairs


def _matched(pair: FolderPair, images: Sequence[str], masks: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the mask of each image that has one, and the masks of no image."""
    of_image: dict[str, str] = {}
    for suffixes in ((None, None), (None, _MASK_SUFFIX), (_IMAGE_SUFFIX, _MASK_SUFFIX)):
        by_name: dict[str, list[str]] = defaultdict(list)
        for mask in masks:
            by_name[_name(pair.masks, mask, suffixes[1])].append(mask)
        for image in images:
            candidates = by_name.get(_name(pair.images, image, suffixes[0]), [])
            if image in of_image or not candidates:
                continue
            if len(candidates) > 1:
                raise DataError(
                    f"{image} may have the masks {listed([Path(mask).name for mask in candidates])}: leave one of them"
                )
            of_image[image] = candidates[0]
    used = set(of_image.values())
    return of_image, [mask for mask in masks if mask not in used]


def _name(folder: Path, path: str, suffix: re.Pattern[str] | None) -> str:
    """Return what an image and its mask have in common: the path below their folders without ending and suffix."""
    name = os.path.splitext(path[len(str(folder)) + 1 :])[0]  # noqa: PTH122 (many times)
    return suffix.sub("", name) if suffix else name


def _first_folder(folder: Path, image: str) -> str:
    first = image[len(str(folder)) + 1 :].partition(os.sep)[0].lower()
    return SPLIT_NAMES.get(first, "")


def _split_lists(root: Path) -> tuple[str, dict[str, str]]:
    """Return where splits are listed, and the split of each name; nothing where they are not."""
    for folder in _LISTS:
        split_of: dict[str, str] = {}
        for path in sorted((root / folder).glob("*.txt")):
            if (split := SPLIT_NAMES.get(path.stem.lower())) is None:
                continue
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if words := line.split():
                    split_of.setdefault(Path(words[0]).stem, split)
        if len(set(split_of.values())) > 1:
            return str(root / folder) if folder != "." else str(root), split_of
    return "", {}


def _nothing_matches(pairs: Sequence[FolderPair], found: FolderNotes) -> str:
    pair = pairs[0]
    image = next(iter(images_below(pair.images, FolderNotes(pair.images))), "no image at all")
    mask = next(iter(images_below(pair.masks, FolderNotes(pair.masks), _ENDINGS)), "no mask at all")
    return (
        f"{found.root}: {found.name(pair.images)} and {found.name(pair.masks)} look like images and their masks, and "
        f"no mask is called as an image ({Path(image).name}; {Path(mask).name}). Give a mask the name of its image; if "
        f"the folders are classes, say `task` single_label. {MASK_LAYOUT[0].upper()}{MASK_LAYOUT[1:]}"
    )


_ENDINGS = frozenset((".png", ".bmp", ".gif", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".pgm", ".ppm", ".mat"))
"""Files that may be masks; those of JPEG are found so that it can be said what is wrong with them."""

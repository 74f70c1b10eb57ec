"""Whether the folders in a folder are classes, or splits with the classes inside: what is not plain is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cache.errors import DataError, UsageError, suggestion
from stages.config.data import CLASSES, LEFT_OUT
from stages.data.sources.folder_tree import FolderNotes, find_subfolders
from stages.data.sources.records import SPLIT_NAMES

LAYOUT = "expected ROOT/CLASS/image.jpg or ROOT/SPLIT/CLASS/image.jpg (splits: train, val, test)"

_SYNONYMS = {
    **dict.fromkeys(("dev", "devel", "development"), "val"),
    **dict.fromkeys(("holdout", "hold-out", "hold_out", "heldout", "held-out", "held_out"), "test"),
}
"""What a split may be called where no other one is of its kind: then it can mean nothing else."""

_WORDS = {
    **SPLIT_NAMES,
    **_SYNONYMS,
    **dict.fromkeys(("eval", "evaluation", "publictest", "public_test", "privatetest", "private_test"), "test"),
    **dict.fromkeys(("labeled", "labelled"), "train"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsup", "unsupervised", "unannotated"), LEFT_OUT),
}
"""What splits are called -> which one is most likely meant."""

_LIKE_A_SPLIT = re.compile(
    rf"(?:(?:images?|imgs?|data)[-_ .]?)?({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    r"(?:[-_ .]?\d+\w?|[-_ .]?(?:sets?|data|split|images?|imgs?|full|all|small)|[-_ .][a-z])?",
    re.IGNORECASE,
)
"""train2017, test_a, dev-set, images_val: names that no class is likely to have beside another one of them."""

_PART = re.compile(r"(fold|part|batch|chunk|split|subset)[-_ .]?\d+", re.IGNORECASE)
"""fold1, part_2: parts of a data set, where each has the same classes in it."""


def find_parts(root: Path, folders: Sequence[Path], choice: Sequence[str]) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return in which folders the class folders are, each with its split, and in words what was taken for what.

    Parameters
    ----------
    root : Path
    folders : sequence of Path
        The folders in it.
    choice : sequence of str
        The option `folders`: nothing, the word for classes, or pairs of a folder and its split.

    Returns
    -------
    parts : list of (str, Path)
        ('', root) where the folders are classes.
    notes : list of str

    Raises
    ------
    DataError
        If folders can be read as splits and as classes, or splits have no class folders in them.
    UsageError
        If `choice` names a folder that there is not, or not all that need a word.
    """
    if tuple(choice) == (CLASSES,):
        return [("", root)], []
    if choice:
        return _as_chosen(root, folders, {name: split for name, _, split in (item.rpartition("=") for item in choice)})
    if not any(_LIKE_A_SPLIT.fullmatch(folder.name) for folder in folders):
        if _are_parts(root, folders):
            raise _ambiguous_parts(root, folders)
        return [("", root)], []
    with_classes = {folder for folder in folders if find_subfolders(folder, FolderNotes(root))}
    names = {folder: folder.name.lower() for folder in folders}
    if all(name in SPLIT_NAMES for name in names.values()):
        if len(with_classes) == len(folders):
            return [(SPLIT_NAMES[names[folder]], folder) for folder in folders], []
        if len({SPLIT_NAMES[name] for name in names.values()}) > 1:
            raise _without_classes(root, folders, with_classes)
        return [("", root)], []
    meanings = {folder: {**_SYNONYMS, **SPLIT_NAMES}.get(name, "") for folder, name in names.items()}
    splits = list(meanings.values())
    if len(with_classes) == len(folders) and "train" in splits and "" not in splits and len(set(splits)) == len(splits):
        taken = [
            f"{folder.name} is the {split} split" for folder, split in meanings.items() if names[folder] in _SYNONYMS
        ]
        return [(split, folder) for folder, split in meanings.items()], taken
    if _look_like_splits(root, folders, with_classes):
        raise _ambiguous(root, folders)
    return [("", root)], []


def _as_chosen(root: Path, folders: Sequence[Path], chosen: dict[str, str]) -> tuple[list[tuple[str, Path]], list[str]]:
    names = [folder.name for folder in folders]
    for name in chosen:
        if name not in names:
            raise UsageError(f"`folders` {name}: there is no such folder in {root}.{suggestion(name, names)}")
    splits = {folder: chosen.get(folder.name) or SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    if untold := [f"{folder.name}=..." for folder, split in splits.items() if not split]:
        raise UsageError(
            f"`folders` {','.join(f'{name}={split}' for name, split in chosen.items())} does not say what all are: add "
            f"{','.join(untold)} (train, val, test, or {LEFT_OUT} to leave it out)"
        )
    kept = [folder for folder in folders if splits[folder] != LEFT_OUT]
    with_classes = {folder for folder in kept if find_subfolders(folder, FolderNotes(root))}
    if not kept or len(with_classes) < len(kept):
        raise _without_classes(root, kept, with_classes)
    left_out = [folder.name for folder in folders if folder not in kept]
    notes = [f"left out {', '.join(left_out)}, as `folders` says"] if left_out else []
    return [(splits[folder], folder) for folder in kept], notes


def _look_like_splits(root: Path, folders: Sequence[Path], with_classes: set[Path]) -> bool:
    """Return whether folders that are not all called as splits may be splits all the same.

    They may if two are called much like ones; a single one may be a class of that name, unless it has the same folders
    in it as one beside it, as splits have the same classes.

    Raises
    ------
    DataError
        If it has folders in it that are called as those beside it: a split put among the classes of another one.
    """
    like = {folder: match[1].lower() for folder in folders if (match := _LIKE_A_SPLIT.fullmatch(folder.name))}
    if len(like) > 1:
        return any(folder in with_classes or word in SPLIT_NAMES for folder, word in like.items())
    inner = {folder: {child.name for child in find_subfolders(folder, FolderNotes(root))} for folder in with_classes}
    beside = {folder.name for folder in folders}
    for folder in like:
        if classes := sorted(inner.get(folder, set()) & beside - {folder.name}):
            raise DataError(
                f"{root}: {folder.name} has folders in it that are called as those beside it ({', '.join(classes)}). "
                f"If it is a split, put the folders beside it into one of their own, as train; if it is a class, say "
                f"`folders` {CLASSES}"
            )
    return any(
        len(inner[folder] & inner[other]) > 1
        for folder in like
        if folder in inner
        for other in inner
        if other != folder
    )


def _are_parts(root: Path, folders: Sequence[Path]) -> bool:
    """Return whether all folders are called as parts of a data set, and have the same folders in them."""
    if len(folders) < 2 or not all(_PART.fullmatch(folder.name) for folder in folders):
        return False
    first, *others = ({child.name for child in find_subfolders(folder, FolderNotes(root))} for folder in folders)
    return len(first) > 1 and all(other == first for other in others)


def _ambiguous_parts(root: Path, folders: Sequence[Path]) -> DataError:
    names = [folder.name for folder in folders]
    pairs = ",".join(
        f"{name}={'test' if folder is folders[-1] else 'train'}" for folder, name in zip(folders, names, strict=True)
    )
    return DataError(
        f"{root}: {', '.join(names)} have the same folders in them, and can be parts of the data or classes. If parts, "
        f"say of which split each one is (train, val, test, or {LEFT_OUT} to leave it out), for instance `folders` "
        f"{pairs}; if all are classes, say `folders` {CLASSES}"
    )


def _ambiguous(root: Path, folders: Sequence[Path]) -> DataError:
    """Return the error that asks, with both readings and what to say for each."""
    matches = {folder.name: _LIKE_A_SPLIT.fullmatch(folder.name) for folder in folders}
    like = [name for name, match in matches.items() if match]
    others = [name for name, match in matches.items() if not match]
    beside = f", beside {', '.join(others)}" if others else ""
    pairs = ",".join(
        f"{name}={_WORDS[match[1].lower()] if match else LEFT_OUT}"
        for name, match in matches.items()
        if name.lower() not in SPLIT_NAMES
    )
    return DataError(
        f"{root}: {', '.join(like)}{beside} can be splits or classes. If splits, say which each one is (train, val, "
        f"test, or {LEFT_OUT} to leave it out), for instance `folders` {pairs}; if all are classes, say `folders` "
        f"{CLASSES}"
    )


def _without_classes(root: Path, folders: Sequence[Path], with_classes: set[Path]) -> DataError:
    names = ", ".join(folder.name for folder in folders)
    lacking = ", ".join(folder.name for folder in folders if folder not in with_classes)
    return DataError(
        f"{root} has the splits {names}, but there are no class folders in {lacking}; {LAYOUT}. If these are classes, "
        f"say `folders` {CLASSES}"
    )

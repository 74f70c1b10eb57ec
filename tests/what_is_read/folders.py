"""Folders that are given as ``--data``."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.stages.data.pictures import photograph, write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import outcome

_PHOTOS = "photos"
_CLASSES = {"cat": 4, "dog": 4}


def _folders(counts: dict[str, int]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        write_images(root / _PHOTOS, counts)
        return root / _PHOTOS

    return make


def _with_other_files(root: Path) -> Path:
    photos = _folders(_CLASSES)(root)
    (photos / "cat" / "notes.txt").write_text("mine")
    (photos / "dog" / "broken.jpg").write_bytes(b"")
    (photos / "bird").mkdir()
    return photos


def _with_system_folders(root: Path) -> Path:
    photos = _folders({**_CLASSES, "@eaDir": 2, "cat/@eaDir": 1, "$RECYCLE.BIN": 1, "lost+found": 1})(root)
    write_images(photos, {"__MACOSX": 1})
    (photos / "cat" / "._000.png").write_bytes(b"resource fork")
    return photos


def _with_a_run(root: Path) -> Path:
    photos = _folders({**_CLASSES, "run/figures": 2})(root)
    (photos / "run" / "config.toml").write_text("version = 2\n")
    (photos / "run" / "environment.json").write_text("{}\n")
    return photos


def _linked(root: Path) -> Path:
    photos = _folders(_CLASSES)(root)
    write_images(root, {"elsewhere": 3}, first_seed=100)
    (photos / "cat" / "more").symlink_to(root / "elsewhere", target_is_directory=True)
    (photos / "dog" / "around").symlink_to(photos, target_is_directory=True)
    return photos


def _named_by_patient(root: Path) -> Path:
    for name in ("benign", "malignant"):
        (root / _PHOTOS / name).mkdir(parents=True)
        for patient in range(6):
            for image in range(3):
                seed = len(name) * 100 + patient * 10 + image
                photograph(8, 8, seed).save(root / _PHOTOS / name / f"{name[0]}{patient}_{image}.png")
    return root / _PHOTOS


def _twins(root: Path) -> Path:
    write_images(root / _PHOTOS, {"caf\u00e9": 4, "cafe\u0301": 4})
    return root / _PHOTOS


def _not_unicode(root: Path) -> Path:
    write_images(root / _PHOTOS, {os.fsdecode(b"K\xe4fer"): 4, "Biene": 4})
    return root / _PHOTOS


_PATIENTS = {f"{name}/patient {number}": 3 for name in ("benign", "malignant") for number in range(5)}
_SPLITS = {f"{split}/{name}": 4 for split in ("train", "test") for name in _CLASSES}

SECTION = Section(
    "Folders",
    "A folder that is given as `--data`.",
    [
        Case("a folder for each class", _folders(_CLASSES)),
        Case("a folder for each split, with one for each class", _folders(_SPLITS)),
        Case("training and validation alone", _folders({"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})),
        Case("train beside dev", _folders({f"{split}/{name}": 4 for split in ("train", "dev") for name in _CLASSES})),
        Case("train and test beside unlabeled", _folders({**_SPLITS, "unlabeled": 3})),
        Case("train beside eval", _folders({f"{split}/{name}": 4 for split in ("train", "eval") for name in _CLASSES})),
        Case("a test split alone beside folders of other names", _folders({"test1/cat": 4, "test1/dog": 4, "cat": 4})),
        Case(
            "splits with years", _folders({f"{split}2017/{name}": 4 for split in ("train", "val") for name in _CLASSES})
        ),
        Case(
            "parts with the same folders in them",
            _folders({f"fold{part}/{name}": 4 for part in (1, 2) for name in _CLASSES}),
        ),
        Case(
            "splits inside the classes",
            _folders({f"{name}/{split}": 4 for split in ("train", "test") for name in _CLASSES}),
        ),
        Case("a split beside the classes", _folders({**_CLASSES, "test/cat": 4, "test/dog": 4})),
        Case(
            "folders of views inside the classes",
            _folders({f"{name}/{view}": 2 for view in ("front", "side") for name in _CLASSES}),
        ),
        Case("a folder for each patient inside the classes", _folders(_PATIENTS)),
        Case("one folder inside each class", _folders({"cat/images": 4, "dog/images": 4})),
        Case("names that look like several images of one subject", _named_by_patient),
        Case("linked folders, one of which leads around in a circle", _linked),
        Case("folders and files that systems leave behind", _with_system_folders),
        Case("a run of this program among the classes", _with_a_run),
        Case("files that are no images, an empty file, an empty folder", _with_other_files),
        Case("two names that look the same", _twins),
        Case("a name that is not Unicode", _not_unicode),
        Case("one class", _folders({"cat": 4})),
        Case("images without a folder around them", _folders({".": 4})),
    ],
    outcome,
)

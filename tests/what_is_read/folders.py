"""Folders that are given as ``--data``."""

from pathlib import Path

from tests.stages.data.pictures import write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import outcome


def _folders(counts: dict[str, int]):
    def make(root: Path) -> Path:
        write_images(root / "photos", counts)
        return root / "photos"

    return make


def _with_other_files(root: Path) -> Path:
    write_images(root / "photos", {"cat": 4, "dog": 4})
    (root / "photos" / "cat" / "notes.txt").write_text("mine")
    (root / "photos" / "dog" / "broken.jpg").write_bytes(b"")
    (root / "photos" / "bird").mkdir()
    return root / "photos"


SECTION = Section(
    "Folders",
    "A folder that is given as `--data`.",
    [
        Case("a folder for each class", _folders({"cat": 4, "dog": 4})),
        Case(
            "a folder for each split, with one for each class",
            _folders({"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 2}),
        ),
        Case("training and validation alone", _folders({"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})),
        Case("files that are no images, an empty file, an empty folder", _with_other_files),
    ],
    outcome,
)

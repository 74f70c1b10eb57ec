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


def _with_a_run_and_more(root: Path) -> Path:
    write_images(root / "photos", {"cat": 4, "dog": 4, "@eaDir": 1, "cat/.thumbnails": 1, "run/figures": 2})
    for name in ("run/config.toml", "run/environment.json", "cat/._000.png"):
        (root / "photos" / name).touch()
    return root / "photos"


def _with_links(root: Path) -> Path:
    write_images(root, {"photos/cat": 4, "photos/dog": 4, "disk": 2})
    (root / "photos" / "cat" / "more").symlink_to(root / "disk")
    (root / "photos" / "cat" / "all").symlink_to(root / "photos")
    return root / "photos"


def _with_subjects_in_names(root: Path) -> Path:
    for number, path in enumerate(write_images(root / "photos", {"ill": 12, "well": 12})):
        path.rename(path.with_name(f"p{number // 3}_{number % 3}.png"))
    return root / "photos"


def _in_each(*splits: str) -> dict[str, int]:
    return {f"{split}/{label}": 4 for split in splits for label in ("cat", "dog")}


def _inside(*names: str) -> dict[str, int]:
    return {f"{label}/{name}": 2 for label in ("ill", "well") for name in names}


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
        Case("development and holdout", _folders(_in_each("train", "dev", "holdout"))),
        Case("train beside other words of splits", _folders({**_in_each("train", "eval"), "unlabeled": 2})),
        Case("splits with years", _folders(_in_each("train2017", "val2017"))),
        Case("a single class that is called as a split", _folders({"train": 4, "bus": 4})),
        Case("splits inside the classes", _folders({"cat/train": 4, "cat/test": 2, "dog/train": 4, "dog/test": 2})),
        Case("a run, a system's folder, hidden files and folders among the classes", _with_a_run_and_more),
        Case("links to folders inside a class, one of them to where it lies in", _with_links),
        Case("a folder for each patient inside the classes", _folders(_inside(*(f"p{number}" for number in range(6))))),
        Case("folders of views inside the classes", _folders(_inside("front", "side"))),
        Case("file names that begin with the patient", _with_subjects_in_names),
    ],
    outcome,
)

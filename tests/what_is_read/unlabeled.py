"""What ``extract`` takes as ``--data``: images without labels."""

from pathlib import Path

from cache.errors import CutonceError
from stages.config.data import DataConfig
from stages.data.manifest import load_manifest
from tests.stages.data.pictures import write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import words_of


def outcome(path: Path) -> str:
    """Return the summary and the notes of the manifest, or the error."""
    try:
        return words_of(load_manifest(DataConfig(str(path)), labels=False))
    except CutonceError as error:
        return f"error: {error}"


def _flat(root: Path) -> Path:
    write_images(root, {"photos": 5})
    return root / "photos"


def _one_class(root: Path) -> Path:
    write_images(root / "photos", {"cat": 5})
    return root / "photos"


def _too_few(root: Path) -> Path:
    write_images(root / "photos", {"cat": 1, "dog": 1})
    return root / "photos"


def _table(root: Path) -> Path:
    write_images(root, {"photos": 2})
    (root / "images.csv").write_text("path,age\nphotos/000.png,3\nphotos/001.png,4\nphotos/001.png,4\n")
    return root / "images.csv"


def _list(root: Path) -> Path:
    write_images(root, {"photos": 2})
    (root / "images.txt").write_text("photos/000.png\r\nphotos\\001.png\r\n\r\n")
    return root / "images.txt"


def _empty_list(root: Path) -> Path:
    (root / "images.txt").write_text("\n")
    return root / "images.txt"


SECTION = Section(
    "Without labels",
    "What `extract` takes as `--data`; everything else needs labels, and says so.",
    [
        Case("a folder of images", _flat),
        Case("one class", _one_class),
        Case("two classes of one image each", _too_few),
        Case("a table with the column path", _table),
        Case("a text file with a path in each line", _list),
        Case("a text file with no path in it", _empty_list),
    ],
    outcome,
)

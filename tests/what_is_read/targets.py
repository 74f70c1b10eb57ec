"""What is to be predicted, as tables and folders say it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cache.errors import CutonceError
from stages.config.data import DataConfig
from stages.data.manifest import load_manifest
from tests.stages.data.pictures import write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import words_of


def _outcome(path: Path, **options: Any) -> str:
    """Return the task, the summary and the notes of the manifest, and its first targets; or the error."""
    try:
        manifest = load_manifest(DataConfig(str(path), **options))
    except CutonceError as error:
        return f"error: {error}"
    first = ", ".join(text or "(none)" for text in manifest.target_texts[:3])
    return f"{manifest.task.name}; {words_of(manifest)}\nfirst targets: {first}"


def _table(columns: str, rows: Sequence[str], *more: str) -> Callable[[Path], Path]:
    """Return what makes a table of these columns beside twelve images, with the rows over and over."""

    def make(root: Path) -> Path:
        write_images(root, {"images": 12})
        lines = [f"images/{index:03}.png,{rows[index % len(rows)]}" for index in range(12)]
        (root / "table.csv").write_text("\n".join([f"path,{columns}", *lines, *more]) + "\n")
        return root / "table.csv"

    return make


def _numbered(columns: str, row: str, *more: str) -> Callable[[Path], Path]:
    """Return what makes a table in whose rows {} is a number of its own."""
    return _table(columns, [row.format(f"{1.5**index:.1f}") for index in range(12)], *more)


def _two_folders(root: Path) -> Path:
    write_images(root, {"sun": 6, "wind": 6})
    for index in range(3):
        shutil.copy(root / "sun" / f"{index:03}.png", root / "wind" / f"{index}.png")
    return root


SECTION = Section(
    "Targets",
    "What is to be predicted, in the columns of a table (or by folders), and which task it is taken for.",
    [
        Case("words in the column label", _table("label", ["cat", "dog"])),
        Case("few whole numbers in the column label", _table("label", ["0", "1"])),
        Case("other numbers in the column label", _numbered("label", "{}")),
        Case("the same with `--task regression`", _numbered("label", "{}"), {"task": "regression"}),
        Case("`--target species`", _table("species", ["cat", "dog"]), {"target": "species"}),
        Case("`--target specie`", _table("species", ["cat", "dog"]), {"target": "specie"}),
        Case("the column labels", _table("labels", ["sun|wind", "wind |sun|sun", ""])),
        Case("the column labels, with commas between", _table("labels", ['"sun,wind"', "sun"])),
        Case("the column label, with labels joined", _table("label", ["sun|wind", "sun", "wind"])),
        Case("the column label, with what may be labels", _table("label", ["sun|wind", "sea|land"])),
        Case("the same with `--task multi-label`", _table("label", ["sun|wind", "sea|land"]), {"task": "multi-label"}),
        Case("several rows of one image", _table("labels", ["sun", "wind"], "images/000.png,wind")),
        Case("one file in two class folders", _two_folders),
        Case("the same with `--task multi-label`, by folders", _two_folders, {"task": "multi-label"}),
        Case(
            "a column of 0 and 1 for each label, `--target tag_*`",
            _table("tag_sun,tag_wind,place", ["1,0,a", "0,1,b", "1,,c"]),
            {"target": "tag_*"},
        ),
        Case(
            "something else in such a column",
            _table("sun,wind", ["1,0", "0,maybe"]),
            {"target": "sun,wind", "task": "multi-label"},
        ),
        Case("a label that no row has", _table("sun,wind", ["1,0", "0,0"]), {"target": "sun,wind"}),
        Case(
            "a label that only test images have",
            _table("labels,split", ["sun,train", "wind,test", "sun,val", "sun,test"]),
        ),
        Case("`--target price`", _numbered("price,rooms", "{},3"), {"target": "price"}),
        Case("a column target", _numbered("target", "{}")),
        Case("several columns of numbers", _numbered("width,height", "{0},{0}"), {"target": "width,height"}),
        Case("`--target price --log-target`", _numbered("price", "{}"), {"target": "price", "log_target": True}),
        Case(
            "the same, with a price of 0",
            _numbered("price", "{}", "images/001.png,0"),
            {"target": "price", "log_target": True},
        ),
        Case("rows without a number", _numbered("price", "{}", "images/001.png,"), {"target": "price"}),
        Case("words among numbers", _numbered("price", "{}", "images/001.png,cheap"), {"target": "price"}),
        Case("the same number in all rows", _table("price", ["2.5"]), {"target": "price"}),
        Case(
            "classes in order, `--ordinal low,mid,high`",
            _table("label", ["low", "high", "mid"]),
            {"ordinal": "low,mid,high"},
        ),
        Case("`--ordinal auto`", _table("label", ["1", "3", "2"]), {"ordinal": "auto"}),
        Case("a class that the order has not", _table("label", ["low", "high", "mid"]), {"ordinal": "low,high"}),
        Case("`--log-target` for classes", _table("label", ["a", "b"]), {"task": "single-label", "log_target": True}),
        Case("`--target` for a folder", _two_folders, {"target": "price"}),
    ],
    _outcome,
)

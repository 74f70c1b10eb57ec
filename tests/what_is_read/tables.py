"""Tables that are given as ``--data``."""

from collections.abc import Callable
from pathlib import Path

from tests.stages.data.pictures import write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import outcome


def _table(content: bytes | str, name: str = "labels.csv") -> Callable[[Path], Path]:
    """Return what makes a table of these bytes beside the images cat/000.png to dog/003.png."""

    def make(root: Path) -> Path:
        write_images(root, {"cat": 4, "dog": 4})
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return root / name

    return make


_ROWS = [f"{name}/{index:03}.png,{name}" for name in ("cat", "dog") for index in range(4)]
_TABLE = "\n".join(["path,label", *_ROWS]) + "\n"


def _with_column(name: str, values: str) -> str:
    return "\n".join(f"{line},{value}" for line, value in zip(_TABLE.split(), [name, *values], strict=True)) + "\n"


SECTION = Section(
    "Tables",
    "A table that is given as `--data`; paths start at its folder.",
    [
        Case("CSV with the columns path and label", _table(_TABLE)),
        Case("a byte-order mark, as Excel writes it", _table(b"\xef\xbb\xbf" + _TABLE.encode())),
        Case("semicolons", _table(_TABLE.replace(",", ";"))),
        Case(
            "columns whose names stand in quotes, as R writes them",
            _table(_TABLE.replace("path,label", '"path","label"')),
        ),
        Case("a pointer of Git LFS", _table("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
        Case("tabs", _table(_TABLE.replace(",", "\t"), "labels.tsv")),
        Case("tabs, called .txt as Excel does", _table(_TABLE.replace(",", "\t"), "labels.txt")),
        Case("a first line that names the separator", _table("sep=;\n" + _TABLE.replace(",", ";"))),
        Case("UTF-16", _table(_TABLE.encode("utf-16"))),
        Case("Excel's plain CSV, in code page 1252", _table(_TABLE.replace(",cat", ",K\u00e4tzchen").encode("cp1252"))),
        Case("a workbook", _table(b"PK\x03\x04 and so on")),
        Case("no column label", _table(_TABLE.replace("label", "species", 1))),
        Case("two columns label", _table(_with_column("label", "12345678"))),
        Case("a row without a label", _table(_TABLE + "cat/000.png,\n")),
        Case("each image three times", _table(_TABLE + "\n".join(_ROWS) + "\n" + "\n".join(_ROWS) + "\n")),
        Case("an image with two labels", _table(_TABLE + "cat/000.png,dog\n")),
        Case("back-slashes in paths", _table(_TABLE.replace("/", "\\"))),
        Case("an address in place of a path", _table(_TABLE + "https://example.org/cat.jpg,cat\n")),
        Case("a path that begins with ~", _table(_TABLE + "~/cat.jpg,cat\n")),
        Case("a file that is not there", _table(_TABLE + "cat/gone.png,cat\n")),
        Case("a column of another name", _table(_with_column("age", "12345678"))),
        Case("a column patient that nobody asked for", _table(_with_column("patient", "11223344"))),
        Case("a column group", _table(_with_column("group", "aabcddef"))),
    ],
    outcome,
)

"""Tables that are given as ``--data``."""

from pathlib import Path

from tests.stages.data.pictures import write_images
from tests.what_is_read import Case, Section
from tests.what_is_read.data import outcome


def table(content: bytes | str, name: str = "labels.csv"):
    """Return what makes a table of these bytes beside the images cat/000.png to dog/003.png."""

    def make(root: Path) -> Path:
        write_images(root, {"cat": 4, "dog": 4})
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return root / name

    return make


ROWS = [f"{name}/{index:03}.png,{name}" for name in ("cat", "dog") for index in range(4)]
LINES = "\n".join(["path,label", *ROWS]) + "\n"

SECTION = Section(
    "Tables",
    "A table that is given as `--data`; paths start at its folder.",
    [
        Case("CSV with the columns path and label", table(LINES)),
        Case("a byte-order mark, as Excel writes it", table(b"\xef\xbb\xbf" + LINES.encode())),
        Case("no column label", table(LINES.replace("label", "species", 1))),
        Case("a row without a label", table(LINES + "cat/000.png,\n")),
        Case("a file that is not there", table(LINES + "cat/gone.png,cat\n")),
        Case(
            "another column",
            table(
                "\n".join(f"{line},{extra}" for line, extra in zip(LINES.split(), ["age", *"12345678"], strict=True))
            ),
        ),
    ],
    outcome,
)

"""A contact sheet as an SVG file: its pictures as small JPEGs in it, its words in the colors of whoever looks at it."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass
from html import escape

from PIL import Image
from torch import Tensor

from stages.data.images.rgb import as_colors

_COLUMN, _ROW, _SIDE, _GAP = 104, 112, 96, 16
"""Units: of a cell, with room for the words below a picture, of the longer side of a picture, and before mixtures."""

_LETTER, _LINE = 5.6, 15
"""Units: of a letter of the description, and of a line."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --muted: #5d6675; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --muted: #98a2b1; } }
text { font: 10px system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
text { fill: var(--muted); text-anchor: middle; }
.title { font-size: 12px; font-weight: 600; fill: var(--ink); }
.name { fill: var(--ink); }
.line { text-anchor: start; }
"""


@dataclass(frozen=True)
class Cell:
    """A picture of a sheet: uint8 [C, H, W], with the words below it."""

    row: int
    column: int
    pixels: Tensor
    caption: str = ""


@dataclass(frozen=True)
class Sheet:
    """What stands on a contact sheet.

    Attributes
    ----------
    title, description : str
    names : tuple of str
        Of the columns.
    apart_from : int
        The first column that stands a little apart.
    rows : int
    cells : tuple of Cell
    """

    title: str
    description: str
    names: tuple[str, ...]
    apart_from: int
    rows: int
    cells: tuple[Cell, ...]


def sheet_as_svg(sheet: Sheet) -> str:
    """Return a sheet as an SVG document that needs nothing else."""
    gap = _GAP if len(sheet.names) > sheet.apart_from else 0
    width = _COLUMN * len(sheet.names) + gap
    lines = textwrap.wrap(sheet.description, width=round((width - 8) / _LETTER))
    top = 22 + _LINE * len(lines) + 22
    height = top + _ROW * sheet.rows + 4

    def center(column: int) -> float:
        return _COLUMN * (column + 0.5) + (gap if column >= sheet.apart_from else 0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title line" x="4" y="15">{escape(sheet.title)}</text>',
    ]
    parts += [
        f'<text class="line" x="4" y="{22 + _LINE * number + 10}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    parts += [
        f'<text class="name" x="{center(column):g}" y="{top - 7}">{escape(name)}</text>'
        for column, name in enumerate(sheet.names)
    ]
    for cell in sheet.cells:
        x, y = center(cell.column), top + _ROW * cell.row
        picture, (across, down) = _picture(cell.pixels)
        parts.append(
            f'<image x="{x - across / 2:g}" y="{y + (_SIDE - down) / 2:g}" width="{across}" height="{down}" '
            f'href="{picture}"/>'
        )
        if cell.caption:
            below = y + (_SIDE + down) / 2 + 11
            parts.append(f'<text x="{x:g}" y="{below:g}">{escape(cell.caption)}</text>')
    return "".join([*parts, "</svg>\n"])


def _picture(pixels: Tensor) -> tuple[str, tuple[int, int]]:
    """Return a picture as a data URI, no larger than its place, and its width and height on the sheet."""
    image = Image.fromarray(as_colors(pixels).permute(1, 2, 0).numpy())
    scale = _SIDE / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    image.thumbnail((_SIDE, _SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}", size

"""What all pages are put together from: templates, figures, small pictures, and words as a page has them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from cache.atomic_write import write_atomically
from cache.errors import DataError
from pipeline.options.flags_in_text import as_flags
from pipeline.report import figures
from pipeline.text import byte_count, capitalized, duration, format_count, format_score, in_unit, percent, points
from stages.runtime.unicode_text import printable

READABLE = 11
"""CSS pixels below which text is too small to be read on a phone."""

THUMBNAIL = 200
"""Pixels on the longer side of a thumbnail."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure on the page; `svg` is safe markup."""

    svg: Markup
    alt: str
    caption: str = ""


def least_width(svg: str) -> int:
    """Return the CSS pixels of width at which the smallest text of a figure has `READABLE` of them; 0 without text."""
    view_box = re.match(r'<svg viewBox="\S+ \S+ (\S+) ', svg)
    sizes = [float(size) for size in re.findall(r"<text [^>]*?font(?:-size)?: ?([\d.]+)px", svg)]
    return 0 if view_box is None or not sizes else math.ceil(READABLE * float(view_box[1]) / min(sizes))


def write_page(path: Path, page: str) -> None:
    """Write a page, whatever names are in it."""
    write_atomically(path, printable(page).encode("utf-8"))


_HEADING = re.compile(r'<h2 id="([\w-]+)">(.*?)</h2>', flags=re.DOTALL)
_CONTENTS = "<!-- contents -->"
"""Where a template wants the contents; no name from the data can say this, whose `<` is escaped."""


def with_contents(page: str) -> str:
    """Return a page with links to the sections that come after the place where its template wants them."""
    before, mark, after = page.partition(_CONTENTS)
    links = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in _HEADING.findall(after))
    return before + (f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if mark and links else "") + after


class Figures:
    """Saves figures in a folder and hands them on for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figure: Figure, alt: str, caption: str = "") -> ReportFigure:
        """Save a figure as NAME.png and return it as it stands on the page."""
        figures.save_png(figure, self.folder / f"{name}.png")
        # matplotlib escapes what is text in it
        return ReportFigure(Markup(figures.inline_svg(figure)), alt, caption)


def template(name: str) -> jinja2.Template:
    """Return a template of this folder, with the filters and the script that all pages use."""
    return _environment().get_template(name)


def in_words(value: object) -> str:
    """Return a setting as a person writes it, not as Python does."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(of_it)}" for name, of_it in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(in_words, value)) or "none"
    return str(value)


@cache
def _environment() -> jinja2.Environment:
    """Return what keeps the templates that were compiled, for the next page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # the only script that runs on a page is this one: the browser is told its digest, and nothing else may
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_digest": f"sha256-{digest}"}
    environment.filters |= {
        "in_words": in_words,
        "least_width": least_width,
        "percent": percent,
        "points": lambda share: minus(points(share)),
        "score_of": lambda value, metric: format_score(value, as_percent=metric.as_percent),
        "capitalized": capitalized,
        "typographic": typographic,
        "duration": duration,
        "bytes": byte_count,
        "count": format_count,
        "flags": as_flags,
        "in_unit": in_unit,
        "p_value": lambda p: "< 0.001" if p < 0.001 else f"{p:.2g}",
    }
    return environment


def minus(number: str) -> str:
    """Return a number with a true minus sign."""
    return number.replace("-", "−")


def typographic(text: str) -> str:
    """Return words with true minus signs, and with figures and their signs kept on one line."""
    text = re.sub(r"(?:^|(?<=[\s(]))-(?=\d)", "−", text)
    return re.sub(r"(?<=\d) (?=%)|(?<=p) (?=[=<])|(?<=[=<]) (?=\d)", "\N{NO-BREAK SPACE}", text)


def thumbnail(location: str, options: Mapping[str, Any], side: int = THUMBNAIL) -> str | None:
    """Return a small JPEG of an image as a data URI, or None where it is not there any more.

    It is shown as it was read with `options`, as far as a person can be shown its channels.
    """
    from stages.data.images.reading import reading_from
    from stages.data.images.rgb import as_colors
    from stages.data.sources.open_image import read_image

    try:
        pixels = as_colors(read_image(location, reading_from(options)))
    except DataError:
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((side, side))
    return data_uri(image)


def data_uri(image: Image.Image, encoding: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """Return a picture as what an ``<img>`` takes for its source."""
    encoded = io.BytesIO()
    image.save(encoded, encoding, quality=82, optimize=True)
    return f"data:image/{encoding.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def svg_uri(drawing: str) -> str:
    """Return an SVG document as what an ``<img>`` takes for its source: text, so that what is in it is encoded once."""
    kept = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in '"#%')
    return f"data:image/svg+xml,{quote(drawing, safe=kept)}"


def slug(text: str) -> str:
    """Return words as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]

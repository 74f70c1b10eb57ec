"""Masks that disagree with a model, beside the image and what the model says: a section of the page on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.report.mask_pictures import css, photograph, picture_uri
from pipeline.report.page_parts import template
from pipeline.text import percent
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import read_mask
from stages.data.masks.mask_colors import class_colors, colored, overlay
from stages.inspection.mask_errors import SURE, MaskErrors
from stages.runtime.unicode_text import told_apart


@dataclass(frozen=True)
class ShownMask:
    """A mask to look at: pictures as data URIs, the photograph's None where it is not there any more."""

    location: str
    split: str
    words: str
    share: str
    pictures: tuple[tuple[str, str | None], ...]


def mask_section(
    errors: MaskErrors | None, manifest: Manifest, options: Mapping[str, Any], table: str
) -> Markup | None:
    """Return the section, the worst masks first; None where masks were not looked at.

    Parameters
    ----------
    errors : MaskErrors or None
    manifest : Manifest
        The samples that were inspected.
    options : mapping
        How the images are read, by the names of the options.
    table : str
        The file that has all of them.
    """
    if errors is None:
        return None
    names = told_apart(manifest.class_names)
    colors = class_colors(len(names))
    return Markup(
        template("inspected_masks.html.j2").render(
            shown=_shown(errors, manifest, options),
            total=len(errors.doubted),
            table=table,
            sure=percent(SURE, digits=0),
            legend=[(name, css(color)) for name, color in zip(names, colors, strict=True)],
            score=percent(errors.score),
            metric=manifest.task.metrics[manifest.task.primary].label,
        )
    )


def _shown(errors: MaskErrors, manifest: Manifest, options: Mapping[str, Any]) -> Sequence[ShownMask]:
    assert manifest.mask_classes is not None
    colors = class_colors(len(manifest.class_names))
    shown = []
    for place, words in zip(errors.doubted.tolist(), errors.words, strict=True):
        if place not in errors.predicted:
            continue
        true = read_mask(manifest.target_texts[place], manifest.mask_classes)
        pixels = photograph(manifest.locations[place], options, (true.shape[0], true.shape[1]))
        pictures = [("image", None if pixels is None else picture_uri(pixels, "JPEG"))]
        for name, mask in (("mask", true), ("model", errors.predicted[place])):
            picture = colored(mask, colors) if pixels is None else overlay(pixels, mask, colors)
            pictures.append((name, picture_uri(picture, "JPEG")))
        shown.append(
            ShownMask(
                manifest.locations[place],
                manifest.splits[place],
                words,
                percent(errors.disagreement[place]),
                tuple(pictures),
            )
        )
    return shown

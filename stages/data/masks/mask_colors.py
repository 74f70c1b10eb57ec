"""Colors of classes, and masks in them: alone, on their images, and where two masks differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.tasks.dense import VOID

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_OPACITY = 0.5
"""Of the colors of an overlay."""

_VOID_COLOR = (128, 128, 128)
_WRONG = (214, 39, 40)
_RIGHT = (235, 235, 235)


def class_colors(count: int) -> list[Color]:
    """Return a color for each class, told apart also where there are many.

    Those of Pascal VOC's development kit (Everingham et al. 2010, "The Pascal visual object classes challenge",
    ``VOClabelcolormap``): the lowest three bits of the number become the highest of red, green and blue, the next three
    those below, and so on. Number 0 is black.
    """
    return [_voc_color(number) for number in range(count)]


def _voc_color(number: int) -> Color:
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (number & 1) << place
        green |= (number >> 1 & 1) << place
        blue |= (number >> 2 & 1) << place
        number >>= 3
    return red, green, blue


def overlay(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3], with the colors of its mask, uint8 [H, W], on it.

    Class 0 of a black color, which is the background in most data, leaves the image as it is; so does void.
    """
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    opacity = np.zeros((256, 1), np.float32)
    opacity[: len(colors)] = _OPACITY
    if colors and tuple(colors[0]) == (0, 0, 0):
        opacity[0] = 0
    blended = pixels * (1 - opacity[mask]) + table[mask] * opacity[mask]
    return np.asarray(blended.round().astype(np.uint8))


def colored(mask: NDArray[np.uint8], colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Return a mask, uint8 [H, W], in the colors of its classes, uint8 [H, W, 3]; void is gray."""
    table = np.full((256, 3), _VOID_COLOR, np.uint8)
    table[: len(colors)] = colors
    return np.asarray(table[mask])


def errors(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return where a predicted mask is wrong, uint8 [H, W, 3]: red; void, where nobody knows, is gray."""
    picture = np.empty((*true.shape, 3), np.uint8)
    picture[:] = _RIGHT
    picture[predicted != true] = _WRONG
    picture[true == VOID] = _VOID_COLOR
    return picture

"""From the bytes of a file to pixels, as its header says that they are meant.

What is quick (TorchCodec) decodes where it shows what a photograph viewer shows and survives damaged files; the header
says when that is: JPEG, plain PNG, and WebP without transparency, animation and metadata. Everything else goes through
Pillow, and TIFF that Pillow cannot read as it is meant through tifffile. Nothing here resizes, but who says to what
size an image will be resized gets a large JPEG decoded at a fraction of its size, by Pillow, which takes less time and
memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stages.config.pixel_values import FULL, IntensityRange
from stages.data.images.codecs import decode_deep_png, first_line, rgb_decoder
from stages.data.images.file_kinds import describe_unknown, open_image_format
from stages.data.images.jpeg2000 import deep_color_samples, is_deep_color
from stages.data.images.pages import choose_pages, count_pages, has_pages
from stages.data.images.png import has_exif, significant_samples
from stages.data.images.reading import PAGES_LEFT, PLAIN, Reading
from stages.data.images.rgb import (
    DECODE_ERRORS,
    EXIF,
    UnreadableImageError,
    as_rgb,
    channels_first,
    has_deep_mode,
    upright,
)
from stages.data.images.samples import Samples, eight_bits
from stages.data.images.tiff import OwnTiff, full_pages, is_tiff, pillow_reads_tiff, tags_of, tiff_samples

PIXEL_LIMIT = 178_956_970
"""Most pixels an image may have: Pillow's own limit, half a gigabyte as RGB."""

_ANY_CHANNELS = (0,)
_ANY_RANGE = IntensityRange("values", 0.0, 1.0)
"""What makes a reader keep all channels, and more than 8 bits."""

_JPEG_2000 = "JPEG2000"
_END_OF_JPEG = b"\xff\xd9"
_PADDINGS = (b"", b"\x55" * 64, b"\xaa" * 64)
"""What may follow the data of a JPEG that are whole without changing a pixel."""


def decode(data: bytes, reading: Reading = PLAIN, remarks: list[str] | None = None) -> Tensor:
    """Return the pixels, uint8 [3, H, W] or as many channels as `reading` names, of an encoded image.

    Parameters
    ----------
    data : bytes
    reading : Reading
        How it is read; by default as a photograph viewer shows it, in full.
    remarks : list of str, optional
        Gets what there is to say of the image; see `remarks_in_words`.

    Raises
    ------
    UnreadableImageError
        If the bytes are not an intact image, one of more than `PIXEL_LIMIT` pixels (refused before decoding), one of
        more than four channels of which `reading` names none, or one that has not the page or channel asked for.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    remarks = [] if remarks is None else remarks
    with _reasons(data):
        if is_tiff(data) and not pillow_reads_tiff(data, reading):
            with OwnTiff(data) as tiff:
                _require_size(*tiff.size)
                return _from_pages(tiff.count, tiff.samples, reading, remarks)
        with open_image_format(data) as image:
            return _decode_opened(data, image, reading, remarks)


def read_samples(data: bytes, reading: Reading) -> Samples:
    """Return the samples of the page that is asked for as they are in the file, with all its channels.

    Raises
    ------
    UnreadableImageError
        If the bytes are not an intact image.
    """
    every_channel = replace(reading, channels=reading.channels or _ANY_CHANNELS)
    with _reasons(data):
        if is_tiff(data) and not pillow_reads_tiff(data, every_channel):
            with OwnTiff(data) as tiff:
                _require_size(*tiff.size)
                return tiff.samples(choose_pages(tiff.count, reading.page)[0])
        with open_image_format(data) as image:
            _require_size(*image.size)
            deep_range = replace(every_channel, intensity=_ANY_RANGE)
            return _natural(data, image, deep_range)(choose_pages(len(_pages(data, image)), reading.page)[0])


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Raise UnreadableImageError, with the reason, for whatever a reader raises while it reads the bytes."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImageError(describe_unknown(data)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"more than {PIXEL_LIMIT:,} pixels: make it smaller, or cut it up") from error
    except DECODE_ERRORS as error:
        raise UnreadableImageError(first_line(error)) from error


def _decode_opened(data: bytes, image: Image.Image, reading: Reading, remarks: list[str]) -> Tensor:
    full_size = image.size
    _require_size(*full_size)
    _prepare_jpeg(image, reading)
    try:
        quick = _quick_decoder(data, image) if image.size == full_size and not reading.channels else None
        if quick is not None:
            choose_pages(1, reading.page)
            with suppress(*(() if _is_jpeg(image) else DECODE_ERRORS)):  # Pillow may not mind what is wrong with it
                return quick(data)
        if _is_shown_as_it_is(data, image, reading):
            if has_pages(image) and len(_pages(data, image)) > 1:
                remarks.append(PAGES_LEFT)
            return as_rgb(image)
        return _from_pages(len(_pages(data, image)), _natural(data, image, reading), reading, remarks)
    except DECODE_ERRORS as error:
        if not _is_jpeg(image) or data.rstrip(b"\0").endswith(_END_OF_JPEG):
            raise
        return _without_end_marker(data, reading, error)


def _prepare_jpeg(image: Image.Image, reading: Reading) -> None:
    if reading.shorter_side is not None:
        image.draft(None, (2 * reading.shorter_side, 2 * reading.shorter_side))  # does nothing but to a large JPEG
    if _is_jpeg(image):
        image.info.pop("xmp", None)  # the orientation in EXIF alone counts, as for TorchCodec


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _is_shown_as_it_is(data: bytes, image: Image.Image, reading: Reading) -> bool:
    """Return whether RGB of 8 bits, which Pillow makes of its first page, is what is asked for."""
    if image.format == _JPEG_2000 and is_deep_color(data):
        return False
    cut_to_8_bits = reading.intensity != FULL and _is_deep_png(data)
    return not reading.channels and reading.page == "first" and not has_deep_mode(image) and not cut_to_8_bits


def _require_size(width: int, height: int) -> None:
    if not 0 < width * height <= PIXEL_LIMIT:
        raise UnreadableImageError(f"{width} x {height} pixels; 1 to {PIXEL_LIMIT:,} are allowed")


def _quick_decoder(data: bytes, image: Image.Image) -> Callable[[bytes], Tensor] | None:
    """Return what decodes this image as a viewer shows it, whatever its bytes are, and quicker than Pillow.

    TorchCodec turns JPEG upright but no others, drops alpha instead of laying it on white, and returns every frame of
    an animation.
    """
    if _is_jpeg(image):
        return rgb_decoder("jpeg") if _begins_with_exif(image) else None
    if image.info.keys() & {"exif", "xmp", "XML:com.adobe.xmp", "transparency"} or getattr(image, "is_animated", False):
        return None
    if image.format == "WEBP" and image.mode == "RGB":
        return rgb_decoder("webp")
    # the orientation may stand behind the pixels, too, where no header has it yet
    if image.format == "PNG" and image.mode in ("RGB", "L") and data[24] == 8 and not has_exif(data):
        return rgb_decoder("png")
    return None


def _begins_with_exif(image: Image.Image) -> bool:
    """Return whether EXIF of a JPEG, if it has any, stands in the first segment of its kind: TorchCodec reads no other.

    Of its decoder for CUDA that is not so.
    """
    if "exif" not in image.info:
        return True
    segments: list[tuple[str, bytes]] = getattr(image, "applist", [])
    return next((content for name, content in segments if name == "APP1"), b"").startswith(EXIF)


def _without_end_marker(data: bytes, reading: Reading, reason: BaseException) -> Tensor:
    """Return the pixels of a JPEG of which nothing is missing but the marker at its end, as cheap cameras write it.

    What is missing is seen by what follows: where the data are whole no pixel depends on it. Of a progressive JPEG
    whole scans could be missing, which nothing shows.

    Raises
    ------
    UnreadableImageError
        If more is missing; for `reason`.
    """
    data = data.removesuffix(_END_OF_JPEG[:1])  # half of the marker
    first, *others = (_reopened(data + padding + _END_OF_JPEG, reading) for padding in _PADDINGS)
    if first is None or not all(other is not None and np.array_equal(first, other) for other in others):
        raise UnreadableImageError(first_line(reason)) from reason
    return _from_pages(1, lambda _: Samples(first), reading, [])


def _reopened(data: bytes, reading: Reading) -> NDArray[np.uint8] | None:
    with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
        if image.info.get("progressive"):
            return None
        _prepare_jpeg(image, reading)
        return as_rgb(image).permute(1, 2, 0).numpy()


def _is_deep_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG") and data[24] == 16


def _pages(data: bytes, image: Image.Image) -> Sequence[int]:
    """Return the numbers of the pages of an opened image that count."""
    count = count_pages(image)
    return full_pages(data) if count > 1 and image.format == "TIFF" else range(count)


def _natural(data: bytes, image: Image.Image, reading: Reading) -> Callable[[int], Samples]:
    """Return what gives the samples of a page as they are in the file, with what its header says of them."""
    several = has_pages(image)
    pages = _pages(data, image)

    def page(number: int) -> Samples:
        if image.format == _JPEG_2000 and is_deep_color(data):
            return deep_color_samples(data)
        if several:
            image.seek(pages[number])
        if _is_deep_png(data) and not has_deep_mode(image) and reading.intensity != FULL:
            return significant_samples(decode_deep_png(data), data)
        frame = image.copy() if several else image
        upright(frame)
        if not has_deep_mode(frame):
            if frame.mode == "L" and not frame.has_transparency_data:
                return Samples(np.array(frame)[..., None])
            if frame.mode == "RGBA" and reading.channels:
                return Samples(np.array(frame))
            return Samples(as_rgb(frame).permute(1, 2, 0).numpy())
        values = np.array(frame)[..., None]
        values = values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
        if image.format == "TIFF":
            return tiff_samples(values, tags_of(image))
        # older versions of Pillow hold the 16 bits of a PNG in 32
        return significant_samples(values.astype(np.uint16), data) if image.format == "PNG" else Samples(values)

    return page


def _from_pages(count: int, page: Callable[[int], Samples], reading: Reading, remarks: list[str]) -> Tensor:
    """Return the pages that are asked for as one image."""
    if count > 1:
        remarks.append(PAGES_LEFT)
    numbers = choose_pages(count, reading.page)
    brightest = page(numbers[0])
    for number in numbers[1:]:
        values = page(number).values
        if values.shape != brightest.values.shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (brightest.values.shape, values.shape))
            raise UnreadableImageError(f"its pages have different sizes, {sizes} pixels")
        brightest = replace(brightest, values=np.maximum(brightest.values, values))
    color, alpha = _channels(brightest, reading)
    levels = eight_bits(color, reading.intensity, remarks)
    if alpha is not None:
        opacity = eight_bits(alpha, FULL, []) / np.float32(255)
        levels = np.round(levels * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return channels_first(levels)


def _channels(samples: Samples, reading: Reading) -> tuple[Samples, Samples | None]:
    """Return the channels that are asked for, and the alpha of an image that is shown as by default.

    Raises
    ------
    UnreadableImageError
        If there are more than a viewer can show, and none is asked for; or fewer than asked for.
    """
    count = samples.values.shape[2]
    numbers: Sequence[int] = reading.channels
    if not numbers:
        if count > 4:
            raise UnreadableImageError(f"{count} channels: `channels` names those to take, as 2,1,0, or all")
        numbers = range(3) if count > 2 else range(1)
    if max(numbers) >= count:
        raise UnreadableImageError(f"{count} channels, from number 0 on: there is no number {max(numbers)}")
    alpha = None
    if samples.has_alpha and not reading.channels:
        white = 65535.0 if samples.values.dtype == np.uint16 else samples.white
        alpha = Samples(samples.values[..., -1:], 0.0, white)
    return replace(samples, values=samples.values[..., list(numbers)]), alpha

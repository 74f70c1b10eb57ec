"""Image files, one by one."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from stages.data.images.reading import PLAIN, remarks_in_words
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.open_image import read_image
from tests.stages.data.images.test_codecs import deep_png
from tests.stages.data.images.test_file_kinds import KINDS
from tests.stages.data.images.test_jpeg2000 import jpeg_2000
from tests.stages.data.images.test_png import RAMP, with_significant_bits
from tests.stages.data.images.test_tiff import GDAL_NO_DATA, MAX_SAMPLE_VALUE, packed_12_bits, tiff, with_overview
from tests.stages.data.pictures import encoded, photograph
from tests.what_is_read import Case, Section

_FULL_RAMP = np.array([[0, 21845, 43690, 65535]], np.uint16)
_PHOTOGRAPH = photograph()
_JPEG = encoded(_PHOTOGRAPH, "JPEG")


def outcome(path: Path) -> str:
    """Return the size, and the levels where there are few pixels, or why the file is not read."""
    remarks: list[str] = []
    try:
        image = read_image(str(path), PLAIN, remarks)
    except UnreadableImageError as error:
        return f"not read: {error.reason}"
    _, height, width = image.shape
    words = f"read, {width} x {height}"
    if height == 1:
        words += f", levels {', '.join(map(str, image[0, 0].tolist()))}"
    of_interest = {remark: 1 for remark in remarks if remark != "few levels"}
    return "; ".join([words, *remarks_in_words(of_interest, PLAIN)])


def _file(kind: str, data: bytes, name: str = "image") -> Case:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return Case(kind, make)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(_PHOTOGRAPH, "JPEG", exif=exif)


def _animation(kind: str) -> bytes:
    return encoded(_PHOTOGRAPH, kind, save_all=True, append_images=[photograph(seed=1)])


def _heic() -> bytes:
    import pillow_heif

    data = io.BytesIO()
    pillow_heif.from_pillow(photograph(64, 48)).save(data)
    return data.getvalue()


_WHITE_IS_ZERO = {"photometric": "miniswhite"}
_PLANES = {"photometric": "minisblack", "planarconfig": "separate"}

SECTION = Section(
    "Image files",
    "The kind of a file is seen by its bytes, not by its name. `levels` are the values, 0 to 255, of a ramp of one row.",
    [
        *(_file(kind, encoded(_PHOTOGRAPH, kind)) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")),
        *(
            _file(kind, encoded(_PHOTOGRAPH, kind))
            for kind in ("TGA", "ICO", "JPEG2000", "AVIF", "QOI", "DDS", "SGI", "PCX")
        ),
        _file("HEIC, with pillow-heif installed", _heic()),
        _file("JPEG of a camera that was turned", _turned()),
        _file("JPEG, progressive", encoded(_PHOTOGRAPH, "JPEG", progressive=True)),
        _file("JPEG, gray", encoded(_PHOTOGRAPH.convert("L"), "JPEG")),
        _file("JPEG, CMYK", encoded(_PHOTOGRAPH.convert("CMYK"), "JPEG")),
        _file("JPEG whose marker at the end is missing", _JPEG[:-2]),
        _file("JPEG whose marker at the end is half there", _JPEG[:-1]),
        _file("JPEG that was cut off", _JPEG[:-100]),
        _file("JPEG 2000 of colors of 16 bits, with imagecodecs installed", jpeg_2000([0, 21845, 43690, 65535], 16, 3)),
        _file("PNG with transparency: laid on white", encoded(_PHOTOGRAPH.convert("RGBA"), "PNG")),
        _file("PNG with a palette", encoded(_PHOTOGRAPH.convert("P"), "PNG")),
        _file("PNG of 16 bits", encoded(Image.fromarray(_FULL_RAMP), "PNG")),
        _file("PNG of 16 bits, of which the header says that 12 mean something", with_significant_bits(RAMP, 12)),
        _file("PNG of 16 bits and three channels", deep_png()),
        _file("PNG that was cut off", encoded(_PHOTOGRAPH, "PNG")[:-300]),
        _file("TIFF of 16 bits", tiff(_FULL_RAMP)),
        _file("TIFF of 12 bits", packed_12_bits(RAMP)),
        _file(
            "TIFF of 12 bits in 16, with MaxSampleValue", tiff(RAMP, extratags=[(MAX_SAMPLE_VALUE, "H", 1, 4095, True)])
        ),
        _file("TIFF of 12 bits in 16, without a word of it", tiff(RAMP)),
        _file("TIFF of 16 bits whose zero is white", tiff(_FULL_RAMP, **_WHITE_IS_ZERO)),
        _file(
            "TIFF of 16 bits, red, green and blue one after another",
            tiff(np.zeros((3, 4, 5), np.uint16), photometric="rgb", planarconfig="separate"),
        ),
        _file("TIFF of floats between 0 and 1", tiff(np.array([[0, 0.5, 1]], np.float32))),
        _file("TIFF of other floats", tiff(np.array([[10, 15, 20]], np.float32))),
        _file(
            "TIFF of floats, with -9999 where nothing was measured", tiff(np.array([[-9999, 10, 15, 20]], np.float32))
        ),
        _file(
            "TIFF of floats that names its value for nothing",
            tiff(np.array([[7, 10, 15, 20]], np.float32), extratags=[(GDAL_NO_DATA, "s", 0, "7", True)]),
        ),
        _file(
            "TIFF of floats, with infinity and what is no number",
            tiff(np.array([[np.nan, -np.inf, 10, 20, np.inf]], np.float32)),
        ),
        _file("TIFF of one value everywhere", tiff(np.full((1, 3), 7.5, np.float32))),
        _file("TIFF of 32 bits", tiff(np.array([[0, 2**31, 2**32 - 1]], np.uint32))),
        _file("TIFF of signed numbers of 8 bits", tiff(np.array([[-128, 0, 127]], np.int8))),
        _file("TIFF of signed numbers of 16 bits", tiff(np.array([[0, 16384, 32767]], np.int16))),
        _file("TIFF of seven channels", tiff(np.zeros((7, 4, 5), np.uint8), **_PLANES)),
        _file("TIFF with three pages", tiff(np.zeros((3, 4, 5), np.uint8), photometric="minisblack")),
        _file("TIFF with an overview of its one image", with_overview()),
        _file("BigTIFF", tiff(np.zeros((4, 5), np.uint8), bigtiff=True)),
        _file("animated GIF", _animation("GIF")),
        _file("animated WebP", _animation("WEBP")),
        _file("an empty file", b""),
        *(_file(kind, data) for kind, (data, _) in KINDS.items() if kind != "iPhone"),
    ],
    outcome,
)

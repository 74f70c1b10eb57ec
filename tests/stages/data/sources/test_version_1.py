import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.version_1 import is_read_as_in_version_1
from tests.stages.data.images.test_png import RAMP, with_significant_bits
from tests.stages.data.pictures import encoded, photograph


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def jpeg(xmp_first):
    """A JPEG with EXIF and XMP, in either order."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph(), "JPEG", exif=exif)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    place = 2 if xmp_first else data.index(b"\xff\xdb")
    return data[:place] + segment + data[place:]


SAME = {
    "JPEG with XMP after EXIF": jpeg(xmp_first=False),
    **{kind: encoded(photograph(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA")},
    "PNG of 16 bits": encoded(Image.fromarray(RAMP), "PNG"),
    "PNG of 8 bits, 5 of which mean something": with_significant_bits(RAMP.astype(np.uint8), 5),
}
OTHERWISE = {
    "JPEG with XMP before EXIF": jpeg(xmp_first=True),
    "PNG of 12 bits": with_significant_bits(RAMP, 12),
    "TIFF of 16 bits": tiff(RAMP),
    "TIFF of floats": tiff(RAMP.astype(np.float32)),
    "TIFF of five channels": tiff(np.zeros((4, 4, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
    "text": b"dear diary",
    "empty": b"",
}


@pytest.mark.parametrize("kind", [*SAME, *OTHERWISE])
def test_the_header_says_whether_version_1_saw_the_same_pixels(kind, tmp_path):
    path = tmp_path / "image"
    path.write_bytes((SAME | OTHERWISE)[kind])
    assert is_read_as_in_version_1(str(path)) == (kind in SAME)


def test_images_without_files_are_as_they_were_and_missing_files_are_not():
    assert is_read_as_in_version_1("digits:7")
    assert is_read_as_in_version_1(InMemoryImage("one", np.zeros((4, 4, 3), np.uint8)))
    assert not is_read_as_in_version_1("/nowhere/a.png")

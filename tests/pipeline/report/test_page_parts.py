import base64
import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.report.page_parts import thumbnail, typographic


def test_a_thumbnail_shows_an_image_as_the_network_was_shown_it(tmp_path):
    values = np.zeros((5, 40, 40), np.uint16)
    values[3:] = 4000
    tifffile.imwrite(tmp_path / "cells.tif", values, photometric="minisblack", planarconfig="separate")

    def brightness(**options):
        uri = thumbnail(str(tmp_path / "cells.tif"), options)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).mean((0, 1)).round()

    assert brightness(channels="4", intensity_range="bits:12") == pytest.approx([249] * 3, abs=1)
    assert brightness(channels="4") == pytest.approx([16] * 3, abs=1)
    assert brightness(channels="3,0", intensity_range="bits:12") == pytest.approx([249] * 3, abs=1)
    assert brightness(channels="0,1,2,3,4", intensity_range="bits:12") == pytest.approx([0] * 3, abs=1)
    assert thumbnail(str(tmp_path / "cells.tif"), {}) is None


def test_numbers_below_zero_have_a_true_minus_wherever_they_stand_and_names_keep_their_hyphens():
    assert typographic("-3.3 (-20.7 to +13.7), -1 of top-3") == "−3.3 (−20.7 to +13.7), −1 of top-3"

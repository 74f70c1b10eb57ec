"""A sheet as an SVG file holds the pictures of the PNG sheet, and follows the scheme of whoever looks at it."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from stages.data.augment.contact_sheet import contact_sheet
from stages.data.augment.mixup import MixupCutmix
from stages.data.augment.policy import augmentation
from tests.stages.data.augment.test_contact_sheet import PREPROCESSING, colored

SVG = "{http://www.w3.org/2000/svg}"


def sheet_of(path, images, augment="light", seeds=range(3), mixing=None, title="What the network sees"):
    contact_sheet(images, augmentation(augment, PREPROCESSING), seeds, path, title, mixing)
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def pixels_of(element):
    content = element.get("href").removeprefix("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def test_a_row_for_each_photograph_with_itself_its_evaluation_view_and_its_renderings(tmp_path):
    root = sheet_of(tmp_path / "sheet.svg", colored(), "none")
    pictures = root.findall(f"{SVG}image")
    assert len(pictures) == 3 * (1 + 1 + 3)
    rows = sorted({float(picture.get("y")) for picture in pictures})
    assert len(rows) == 3
    for picture in pictures:
        channel = rows.index(float(picture.get("y")))
        mean = pixels_of(picture).mean(axis=(0, 1))
        assert mean.argmax() == channel
        assert mean[channel] > 240
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert {"What the network sees", "photograph", "evaluation view", "rendering 3", "60 × 60"} <= set(words)


def test_pictures_keep_their_shape_and_lie_within_the_sheet(tmp_path):
    root = sheet_of(tmp_path / "sheet.svg", colored(60, 180))
    width, height = (float(root.get(name)) for name in ("width", "height"))
    whole = root.findall(f"{SVG}image")[0]
    assert float(whole.get("width")) == pytest.approx(3 * float(whole.get("height")), abs=2)
    for picture in root.findall(f"{SVG}image"):
        x, y, across, down = (float(picture.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + across <= width
        assert 0 <= y <= y + down <= height


def test_mixtures_stand_apart_with_their_shares(tmp_path):
    plain = sheet_of(tmp_path / "plain.svg", colored())
    mixed = sheet_of(tmp_path / "mixed.svg", colored(), mixing=MixupCutmix(0.4, 1, layout="nhwc"))
    assert float(mixed.get("width")) > float(plain.get("width")) + 4 * 104
    words = [text.text for text in mixed.findall(f"{SVG}text")]
    assert "cutmix of 2" in words
    assert sum(" + " in word and "%" in word for word in words) == 3 * 4


def test_it_has_colors_for_light_and_dark_is_small_and_is_no_markup_of_its_title(tmp_path):
    root = sheet_of(tmp_path / "sheet.svg", colored(), title="<script>alert(1)</script> & more")
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    assert root.find(f"{SVG}script") is None
    assert "<script>alert(1)</script> & more" in [text.text for text in root.findall(f"{SVG}text")]
    assert (tmp_path / "sheet.svg").stat().st_size < 15 * 8_000

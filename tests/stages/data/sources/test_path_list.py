import os

import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest
from tests.stages.data.pictures import write_images


@pytest.fixture
def listed(tmp_path):
    """Two images, one of which has a name that is not UTF-8, and one stands there twice."""
    write_images(tmp_path, {"photos": 2})
    odd = tmp_path / "photos" / os.fsdecode(b"\xff.png")
    (tmp_path / "photos" / "001.png").rename(odd)
    (tmp_path / "images.txt").write_bytes(b"photos/000.png\r\nphotos/\xff.png\n\nphotos/000.png\n")
    return tmp_path / "images.txt"


def test_each_line_is_an_image_and_none_has_a_label(listed, tmp_path):
    manifest = load_manifest(DataConfig(str(listed)), labels=False)
    assert manifest.locations == [str(tmp_path / "photos" / name) for name in ("000.png", os.fsdecode(b"\xff.png"))]
    assert manifest.target_texts == ["", ""]
    assert manifest.splits == ["train", "train"]
    assert manifest.summary()[0] == "2 images"
    assert not any("classes" in part for part in manifest.summary())
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv").keys == manifest.keys


def test_what_needs_labels_says_what_would_have_some(listed):
    with pytest.raises(DataError, match=r"names images and no labels, for which a table .* features can be extracted"):
        load_manifest(DataConfig(str(listed)))


def test_a_line_that_is_no_path_is_named(tmp_path):
    (tmp_path / "images.txt").write_text("a.png\nhttps://example.org/b.png\n")
    with pytest.raises(DataError, match=r"images.txt, line 2: https://example.org/b.png is a URL"):
        load_manifest(DataConfig(str(tmp_path / "images.txt")), labels=False)

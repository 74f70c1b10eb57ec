import importlib.util
from collections import Counter
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import Manifest, load_manifest
from stages.data.sources.elpv import list_elpv
from stages.data.sources.open_image import read_image


def test_digits_are_gray_images_from_0_to_255():
    images = load_digits().images
    for index in (0, 17, 1796):
        image = read_image(f"digits:{index}")
        assert image.dtype == torch.uint8
        assert image.shape == (3, 8, 8)
        expected = torch.from_numpy(images[index] * 255 / 16).round()
        assert all(torch.equal(channel.double(), expected) for channel in image)


def test_digits_make_a_manifest(tmp_path):
    manifest = load_manifest(DataConfig("digits"))
    assert manifest.class_names == tuple("0123456789")
    assert len(manifest) == 1797
    assert (manifest.targets == load_digits().target).all()
    assert manifest.keys[17] == key_of_pixels(read_image("digits:17"))
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv").locations == manifest.locations


@pytest.mark.parametrize("location", ["digits:1797", "digits:-1", "digits:x", "digits:"])
def test_a_digit_that_does_not_exist_is_unreadable(location):
    with pytest.raises(UnreadableImageError, match="digits:0 to digits:1796"):
        read_image(location)


def test_key_of_pixels_depends_on_pixels_and_shape():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    assert key_of_pixels(image) == key_of_pixels(image.clone())
    assert key_of_pixels(image) != key_of_pixels(image.reshape(3, 4, 2))
    assert key_of_pixels(image) != key_of_pixels(image + 1)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert key_of_pixels(strided) == key_of_pixels(image)


needs_elpv = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs elpv-dataset")


@needs_elpv
@pytest.mark.parametrize("seed", [0, 1])
def test_elpv_is_split_75_25_by_label_and_cell_type(seed):
    listing = list_elpv(DataConfig("elpv"))
    manifest = load_manifest(DataConfig("elpv"), seed)
    assert manifest.class_names == ("functional", "defective")
    assert len(manifest) == 2624
    assert Counter(listing.targets) == {"functional": 1803, "defective": 821}
    kinds = list(zip(listing.targets, listing.strata, strict=True))
    everywhere, tested = Counter(kinds), Counter(kinds[index] for index in manifest.indices("test"))
    assert len(everywhere) == 4
    for kind, count in everywhere.items():
        assert abs(tested[kind] - count / 4) <= 1
    assert abs(len(manifest.indices("val")) - 0.2 * 0.75 * 2624) <= 2


@needs_elpv
def test_the_probability_of_a_defect_is_a_number_of_elpv_or_one_of_four_in_order():
    options = DataConfig("elpv", target="probability", ordinal="auto")
    manifest = load_manifest(options)
    assert Counter(manifest.target_texts) == {
        "0.0": 1508,
        "0.3333333333333333": 295,
        "0.6666666666666666": 106,
        "1.0": 715,
    }
    assert list(manifest.extra) == ["cell_type"]
    assert "levels" in manifest.task.to_json()
    assert load_manifest(replace(options, ordinal=())).task.name == "regression"
    assert load_manifest(replace(options, target="cell_type", ordinal=())).class_names == ("mono", "poly")


@needs_elpv
def test_elpv_images_can_be_read():
    assert read_image(list_elpv(DataConfig("elpv")).locations[0]).shape == (3, 300, 300)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    with pytest.raises(UsageError, match=r"pip install elpv-dataset$"):
        list_elpv(DataConfig("elpv"))

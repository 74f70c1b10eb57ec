import numpy as np
import pytest
from PIL import Image

from pipeline.experiment.dense_defaults import dense_features, may_have_masks
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest
from stages.tasks.dense import Dense
from tests.stages.data.masks.pictures import save_folder


def test_maps_of_whole_images_stand_in_for_what_suits_a_class_of_an_image():
    changed = dense_features(FeatureConfig())
    assert (changed.cut, changed.pool, changed.crop_mode) == ("maps", "none", "squash")


def test_what_was_asked_for_stays():
    given = FeatureConfig(cut="blocks.4", pool="none", crop_mode="border")
    assert dense_features(given) == given


def test_a_folder_of_masks_beside_images_is_seen_without_a_word(tmp_path, photographs):
    assert may_have_masks(DataConfig(str(save_folder(tmp_path, 3))))
    assert not may_have_masks(DataConfig(str(photographs)))
    assert not may_have_masks(DataConfig("digits"))
    assert may_have_masks(DataConfig("torchvision:VOCSegmentation"))
    assert not may_have_masks(DataConfig("torchvision:OxfordIIITPet"))


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("path,mask", {}, True),
        ("path,label", {}, False),
        ("path,label,mask", {"target": "label"}, False),
        ("path,outline", {"task": "dense", "target": "outline"}, True),
        ("path,mask", {"task": "single_label"}, False),
    ],
)
def test_a_table_is_seen_by_its_header(tmp_path, header, options, expected):
    table = tmp_path / "table.csv"
    table.write_text(f"{header}\na.jpg,b.png\n")
    assert may_have_masks(DataConfig(str(table), **options)) is expected


@pytest.mark.parametrize(
    ("size", "options", "seen"),
    [
        ((360, 480), {}, "360x480"),
        ((96, 96), {}, 96),
        ((1024, 2048), {}, "360x728"),
        ((1000, 1000), {}, 512),
        ((360, 480), {"image_size": 64}, 64),
        ((360, 480), {"tile": 128}, 128),
    ],
)
def test_images_are_seen_at_their_commonest_size_or_in_its_proportions_where_it_is_large(tmp_path, size, options, seen):
    for number in range(4):
        shape = (20, 30) if number == 0 else size
        Image.new("RGB", shape[::-1]).save(tmp_path / f"{number}.png")
    locations = [str(tmp_path / f"{number}.png") for number in range(4)]
    manifest = Manifest(locations, np.array(locations), ["train"] * 4, list("abcd"), Dense(("a", "b")))
    assert dense_features(FeatureConfig(**options), manifest).image_size == seen

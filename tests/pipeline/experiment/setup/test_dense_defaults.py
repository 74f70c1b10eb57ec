import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cache.errors import UsageError
from pipeline.experiment.setup.dense_defaults import dense_features, may_have_masks
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.images.preprocessing import Preprocessing
from stages.data.manifest import Manifest
from stages.tasks.dense import Dense
from tests.stages.data.masks.pictures import save_folder


def test_maps_of_whole_images_stand_in_for_what_suits_a_class_of_an_image():
    changed = dense_features(FeatureConfig())
    assert (changed.cut, changed.pool, changed.crop_mode) == ("maps", "none", "squash")


def test_what_was_asked_for_stays():
    given = FeatureConfig(cut="blocks.4", pool="none", crop_mode="border")
    assert dense_features(given) == given


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"taps": "blocks"}, "`taps` blocks are statistics.*several `cut`"), ({"mirror": True}, "`mirror`")],
)
def test_features_of_an_image_as_a_whole_are_refused_by_the_name_that_was_given(asked, said):
    with pytest.raises(UsageError, match=said):
        dense_features(FeatureConfig(**asked))


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


class Patches(nn.Module):
    """A network of patches, which takes multiples of their side, or one size alone where it has positions."""

    def __init__(self, positions):
        super().__init__()
        self.embed, self.fc = nn.Conv2d(3, 4, 16, stride=16), nn.Linear(4, 2)
        self.positions = nn.Parameter(torch.zeros(4, 2, 2)) if positions else None

    def forward(self, x):
        if x.shape[2] % 16 or x.shape[3] % 16:
            raise ValueError("sides have to be multiples of 16")
        maps = self.embed(x)
        return self.fc((maps if self.positions is None else maps + self.positions).mean((2, 3)))


def of_patches():
    return Patches(positions=False), Preprocessing(32, 32)


def of_one_size():
    return Patches(positions=True), Preprocessing(32, 32)


@pytest.mark.parametrize(
    ("factory", "seen", "reason"),
    [("of_patches", "48x80", "takes multiples of 16"), ("of_one_size", None, "takes its own size alone")],
)
def test_a_network_of_patches_sees_images_at_a_size_that_it_takes(tmp_path, caplog, factory, seen, reason):
    path = tmp_path / "a.png"
    Image.new("RGB", (75, 50)).save(path)
    manifest = Manifest([str(path)], np.array([str(path)]), ["train"], ["a"], Dense(("a", "b")))
    with caplog.at_level("INFO", "cutonce"):
        features = dense_features(FeatureConfig(backbone=f"{__name__}:{factory}"), manifest)
    assert features.image_size == seen
    assert reason in caplog.text

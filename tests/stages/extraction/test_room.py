from dataclasses import replace

import pytest

from cache.errors import CacheError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction import room
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.network.backbones.user_module import backbone_from_module
from tests.own_network import OwnNetwork
from tests.photographs import make_folder


def test_what_the_disk_has_no_room_for_is_refused_before_an_image_is_read(tmp_path, monkeypatch):
    options = FeatureConfig(cut="features.0,features", cache=tmp_path / "new" / "cache", extract_batch_size=8, views=3)
    backbone = backbone_from_module(OwnNetwork(), image_size=32)
    manifest = load_manifest(DataConfig(str(make_folder(tmp_path / "photographs", 4, ("leaf", "sea")))))
    half = manifest.select(range(4))
    extract(build_extractor(options, backbone), half)
    needed = 4 * 3 * ((8 + 12) * 2 + 2 * 48)  # four images, three views, two cuts: what is there already takes no room
    monkeypatch.setattr(room, "free_bytes", lambda folder: needed - 1)
    with pytest.raises(CacheError, match=f"24 rows.*{needed:,} bytes, and .*{needed - 1:,} bytes free.*`force`"):
        extract(build_extractor(options, backbone), manifest)
    assert extract(build_extractor(options, backbone), half).hits == 4  # nothing to be made
    assert extract(build_extractor(replace(options, force=True), backbone), manifest).extracted == 4


def test_the_disk_is_known_before_the_folder_is_there(tmp_path):
    assert room.free_bytes(tmp_path / "not" / "yet") == pytest.approx(room.free_bytes(tmp_path), rel=0.1)

from dataclasses import replace

import pytest

from pipeline.experiment.setup.map_room import maps_in_words
from pipeline.text import byte_count
from stages.config.features import FeatureConfig
from stages.extraction.extractor import build_extractor
from stages.extraction.room import row_bytes
from stages.network.backbones.user_module import backbone_from_module
from tests.own_network import OwnNetwork


@pytest.mark.parametrize(("dtype", "views"), [("float16", 1), ("uint8", 1), ("float16", 3)])
def test_what_maps_take_is_said_in_bytes_of_their_files_and_what_8_bits_would_save(tmp_path, dtype, views):
    options = FeatureConfig(
        cut="features.0,features",
        pool="none",
        cache=tmp_path / "cache",
        extract_batch_size=8,
        storage_dtype=dtype,
        views=views,
    )
    extractor = build_extractor(options, backbone_from_module(OwnNetwork(), image_size=32))
    row = sum(map(row_bytes, extractor.taps))
    words = maps_in_words(extractor, 7)
    assert words.startswith("maps of 2 cuts take ")
    assert f"{byte_count(row)} an image" in words
    assert f"{byte_count(7 * views * row)} in all" in words
    assert "a 510th" in words
    assert ("`storage_dtype` uint8 would take 0.5" in words) == (dtype == "float16")
    pooled = build_extractor(
        replace(options, pool="avg", storage_dtype="float16"), backbone_from_module(OwnNetwork(), image_size=32)
    )
    assert maps_in_words(pooled, 7) == ""

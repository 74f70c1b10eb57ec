import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.data.survey import survey
from tests.stages.data.pictures import write_images


def folder(root, values, **options):
    """Two classes of six TIFF images each, the values of each made by a generator of its own."""
    for index in range(12):
        path = root / "ab"[index % 2] / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        tifffile.imwrite(data, values(np.random.default_rng(index)), description=f"image {index}", **options)
        path.write_bytes(data.getvalue())
    return load_manifest(DataConfig(str(root)))


def twelve_bits(random):
    return random.integers(100, 3000, (9, 9)).astype(np.uint16)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (twelve_bits, "bits:12"),
        (lambda random: random.integers(0, 900, (9, 9)).astype(np.uint16), "bits:10"),
        (lambda random: random.integers(0, 60_000, (9, 9)).astype(np.uint16), "bits:16"),
        (lambda random: np.array([[-1000, 500, 3071]], np.int16), "-1000,3071"),
        (lambda random: np.array([[-9999, 2.5, 7]], np.float32), "2.5,7"),
        (lambda random: random.integers(0, 256, (9, 9)).astype(np.uint8), "full"),
    ],
)
def test_auto_is_the_range_that_the_images_use(tmp_path, values, expected):
    found = survey(folder(tmp_path, values), FeatureConfig(intensity_range="auto"))
    assert found.options.intensity_range == expected
    assert f"`intensity_range` auto is {expected}" in found.words[0]


def test_percentiles_are_those_of_all_values(tmp_path):
    found = survey(
        folder(tmp_path, lambda random: np.arange(1001, dtype=np.uint16)[None]),
        FeatureConfig(intensity_range="percentile:10,90"),
    )
    assert found.options.intensity_range == "100,900"


def test_all_channels_are_counted_and_have_to_be_as_many_everywhere(tmp_path):
    def seven(random):
        return random.integers(0, 255, (9, 9, 7)).astype(np.uint8)

    manifest = folder(tmp_path, seven, photometric="minisblack", planarconfig="contig")
    options = FeatureConfig(channels="all")
    assert survey(manifest, options).options.channels == "0,1,2,3,4,5,6"
    write_images(tmp_path, {"a": 1})
    with pytest.raises(DataError, match=r"different numbers of channels: 3, as .*; 7, as"):
        survey(load_manifest(DataConfig(str(tmp_path))), options)


def test_all_channels_of_colors_and_grays_are_those_of_a_viewer(tmp_path):
    write_images(tmp_path, {"a": 6, "b": 5})
    Image.new("L", (8, 8)).save(tmp_path / "b" / "gray.png")
    assert survey(load_manifest(DataConfig(str(tmp_path))), FeatureConfig(channels="all")).options == FeatureConfig()


def test_what_is_found_does_not_depend_on_names_and_damaged_files_are_left_out(tmp_path):
    folder(tmp_path, twelve_bits)
    (tmp_path / "a" / "broken.tif").write_bytes(b"II*\0" + bytes(50))
    found = survey(load_manifest(DataConfig(str(tmp_path))), FeatureConfig(intensity_range="auto"))
    assert found.images == 12
    assert found.options.intensity_range == "bits:12"

import csv

import numpy as np
import pytest
from PIL import Image

from cache.errors import UsageError
from pipeline.experiment.prediction.mask_files import (
    class_colors,
    output_names,
    require_own_folder,
    save_classes,
    save_index_mask,
    save_mark,
    save_overlay,
    save_probabilities,
)

MASK = np.array([[0, 1, 2], [2, 2, 255]], np.uint8)


def test_a_mask_is_read_back_as_numbers_and_looks_like_its_colors(tmp_path):
    colors = [(0, 0, 0), (10, 20, 30), (200, 100, 50)]
    save_index_mask(tmp_path / "a" / "mask.png", MASK, colors)
    image = Image.open(tmp_path / "a" / "mask.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), MASK)
    shown = np.asarray(image.convert("RGB"))
    assert shown[0].tolist() == [list(color) for color in colors]
    assert shown[1, 2].tolist() == [224, 224, 192]  # as VOC shows void


def test_colors_are_those_of_pascal_voc_and_no_two_are_alike():
    colors = class_colors(256)
    assert colors[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colors[20] == (0, 64, 128)  # tv/monitor
    assert len(set(colors)) == 256


def test_an_overlay_mixes_colors_in_and_leaves_the_background_and_void_as_they_are(tmp_path):
    mask = np.repeat(np.repeat(np.array([[0, 1], [1, 255]], np.uint8), 16, 0), 16, 1)
    pixels = np.full((32, 32, 3), 100, np.uint8)
    save_overlay(tmp_path / "o.jpg", pixels, mask, [(0, 0, 0), (200, 0, 100)])
    shown = np.asarray(Image.open(tmp_path / "o.jpg")).astype(int)
    assert np.abs(shown[4:12, 4:12] - 100).max() <= 3
    assert np.abs(shown[20:28, 20:28] - 100).max() <= 3
    assert np.abs(shown[4:12, 20:28] - [150, 50, 100]).max() <= 6


def test_probabilities_and_classes_are_read_back(tmp_path):
    probabilities = np.random.default_rng(0).random((2, 3, 4)).astype(np.float16)
    save_probabilities(tmp_path / "p.npz", probabilities, ["sky", "road, wet"])
    with np.load(tmp_path / "p.npz") as archive:
        assert np.array_equal(archive["probabilities"], probabilities)
        assert archive["class_names"].tolist() == ["sky", "road, wet"]
    save_classes(tmp_path / "classes.csv", ["sky", "road, wet"], [(0, 0, 0), (1, 2, 3)])
    rows = list(csv.reader((tmp_path / "classes.csv").open()))
    assert rows == [["name", "r", "g", "b"], ["sky", "0", "0", "0"], ["road, wet", "1", "2", "3"]]


def test_masks_go_into_folders_that_are_new_or_empty_or_of_a_prediction_alone(tmp_path):
    require_own_folder(tmp_path / "new")
    require_own_folder(tmp_path)
    save_mark(tmp_path / "predicted")
    require_own_folder(tmp_path / "predicted")
    save_index_mask(tmp_path / "data" / "masks" / "a.png", MASK, [(0, 0, 0)])
    with pytest.raises(UsageError, match=r"masks would go to .*data, which holds what no prediction wrote \(masks\): "):
        require_own_folder(tmp_path / "data")


def test_every_image_has_an_output_name_of_its_own():
    locations = ["/x/a/1.jpg", "/x/b/1.jpg", "/x/b/1.png", "/x/b/1.png", "/x/b/.hidden"]
    assert output_names(locations) == ["a/1", "b/1", "b/1.png", "b/1.png.2", "b/.hidden"]
    assert output_names(["/x/a/1.jpg"]) == ["1"]
    assert output_names([]) == []

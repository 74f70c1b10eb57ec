"""``inspect`` where each pixel has a class: a mask that is exchanged for another one is found and shown."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.app import main
from stages.network.graph.trunk import FrozenTrunk
from tests.dense_images import draw, make_dense_folder

WRONG = "train3.png"


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    root = tmp_path_factory.mktemp("inspected")
    data = make_dense_folder(root / "data", {"train": 14, "val": 4, "test": 4})
    mask = data / "masks" / "train" / WRONG
    Image.fromarray(np.array([2, 1, 0], np.uint8)[draw(3)[1]]).save(mask)  # sky and ground exchanged
    shutil.copy(data / "images" / "train" / "train5.png", data / "images" / "test" / "copy.png")
    shutil.copy(data / "masks" / "train" / "train5.png", data / "masks" / "test" / "copy.png")
    arguments = ["inspect", "--data", data, "--image-size", "48x64", "--cache", root / "cache", "--out", root / "run"]
    assert main([str(argument) for argument in arguments]) == 0
    with (root / "run" / "issues.csv").open(newline="") as file:
        return root, [row for row in csv.DictReader(file) if row["kind"] == "mask"]


def test_the_wrong_mask_comes_first_in_the_table(inspected):
    _, rows = inspected
    assert rows[0]["path"].endswith(WRONG)
    assert rows[0]["split"] == "train"
    assert rows[0]["suggestion"] in ("0 where the mask says 2", "2 where the mask says 0")
    assert float(rows[0]["score"]) > 0.2


def test_an_image_in_two_splits_is_reported_and_not_refused(inspected):
    root, _ = inspected
    with (root / "run" / "issues.csv").open(newline="") as file:
        leaked = [row for row in csv.DictReader(file) if row["kind"] == "leakage"]
    assert any(
        {"copy.png", "train5.png"} == {row[name].split("/")[-1] for name in ("path", "other_path")} for row in leaked
    )


def test_a_training_finds_the_maps_in_the_cache(inspected, monkeypatch):
    root, _ = inspected

    def no_forward(*_):
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(FrozenTrunk, "forward", no_forward)
    arguments = ["extract", "--data", root / "data", "--image-size", "48x64", "--cache", root / "cache"]
    assert main([*map(str, arguments), "--allow-leakage"]) == 0

"""What predict writes and says of methods that give a class for each pixel."""

import csv

import numpy as np
import pytest
from PIL import Image

from cache.errors import UsageError
from pipeline.experiment.models.model_card import ModelCard
from pipeline.experiment.prediction.classify_images import mask_output
from pipeline.experiment.prediction.predict_masks import MaskOutput, colors_of_run, predict_masks
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import MaskClasses
from stages.tasks.dense import Dense
from stages.tasks.single_label import SingleLabel
from stages.tasks.tiles import Tiling
from tests.stages.finetuning.test_predict_masks import COLORS, blocks, network

TASK = Dense(["ground", "red", "green", "blue"])


@pytest.fixture
def images(tmp_path):
    masks = [blocks(37, 51, 0), blocks(16, 16, 1)]
    for number, mask in enumerate(masks):
        (tmp_path / f"images/{number}").mkdir(parents=True)
        Image.fromarray(COLORS[mask]).save(tmp_path / f"images/{number}/a.png")
    (tmp_path / "images/bad.png").write_bytes(b"none")
    locations = [str(tmp_path / "images" / name) for name in ("0/a.png", "bad.png", "1/a.png")]
    return locations, masks


def test_masks_overlays_probabilities_and_classes_are_written_and_shares_are_said(images, tmp_path):
    locations, masks = images
    extractor, upper = network(16)
    output = MaskOutput(tmp_path / "out", probabilities=True)
    answers = dict(predict_masks(extractor, upper, TASK, locations, Tiling(16, 16, 4), output))
    assert isinstance(answers[1], str)
    for number, mask in zip((0, 2), masks, strict=True):
        name = f"{number // 2}/a"
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"out/masks/{name}.png")), mask)
        assert Image.open(tmp_path / f"out/overlays/{name}.jpg").size == mask.shape[::-1]
        with np.load(tmp_path / f"out/probabilities/{name}.npz") as archive:
            assert np.array_equal(archive["probabilities"].argmax(0), mask)
        shares = np.bincount(mask.ravel(), minlength=4) / mask.size
        assert list(answers[number].cells) == list(TASK.predicted_columns)
        assert [float(answers[number].cells[f"share_{name}"]) for name in TASK.class_names] == pytest.approx(
            shares, abs=1e-6
        )
        assert answers[number].activated == pytest.approx(shares, abs=1e-6)
    rows = list(csv.reader((tmp_path / "out/classes.csv").open()))
    assert [row[0] for row in rows] == ["name", *TASK.class_names]
    assert not (tmp_path / "out/masks/bad.png").exists()


def test_masks_have_the_colors_of_those_that_were_trained_on(images, tmp_path):
    classes = MaskClasses(("ground", "road"), True, ((0x102030, 0), (0xFF0080, 1)))
    manifest = Manifest([], np.array([], str), [], [], Dense(classes.names), mask_classes=classes)
    manifest.save(tmp_path / "seed-0" / "manifest.csv")
    colors = colors_of_run(tmp_path / "seed-0" / "head-lraspp")
    assert colors == [(16, 32, 48), (255, 0, 128)]
    assert colors_of_run(tmp_path / "seed-1" / "head-lraspp") is None
    locations, _ = images
    four = [*colors, (1, 2, 3), (4, 5, 6)]
    list(predict_masks(*network(16), TASK, locations, Tiling(16, 16, 4), MaskOutput(tmp_path / "out"), four))
    assert Image.open(tmp_path / "out/masks/0/a.png").getpalette()[:12] == [level for color in four for level in color]


def test_masks_that_a_person_made_are_not_replaced_and_predicted_ones_are(images, tmp_path):
    with pytest.raises(UsageError, match="images, which holds what no prediction wrote"):
        list(predict_masks(*network(16), TASK, images[0], output=MaskOutput(tmp_path / "images")))
    assert not (tmp_path / "images" / "masks").exists()
    for _ in range(2):
        assert len(list(predict_masks(*network(16), TASK, images[0], output=MaskOutput(tmp_path / "out")))) == 3


def test_nothing_is_written_where_nothing_says_where(images, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert len(list(predict_masks(*network(16), TASK, images[0]))) == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_masks_go_where_they_are_asked_for_or_beside_the_table(tmp_path, monkeypatch):
    def card(task):
        return ModelCard("head", "lraspp", 0, task.to_json(), {}, "", None, "")

    monkeypatch.setattr("pipeline.experiment.prediction.classify_images.read_recipe", lambda _: card(TASK))
    assert mask_output(tmp_path, None, None) is None
    assert mask_output(tmp_path, None, tmp_path / "new.csv").folder == tmp_path / "new"
    assert mask_output(tmp_path, tmp_path / "m", tmp_path / "new.csv").folder == tmp_path / "m"
    (tmp_path / "new" / "masks").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"new, which holds what no prediction wrote \(masks\): name a"):
        mask_output(tmp_path, None, tmp_path / "new.csv")
    with pytest.raises(UsageError, match="say by `masks` FOLDER where they go"):
        mask_output(tmp_path, None, None, probabilities=True)
    monkeypatch.setattr(
        "pipeline.experiment.prediction.classify_images.read_recipe", lambda _: card(SingleLabel(["a", "b"]))
    )
    assert mask_output(tmp_path, None, tmp_path / "new.csv") is None  # though the folder is there
    with pytest.raises(UsageError, match="says something of images as a whole"):
        mask_output(tmp_path, tmp_path / "m", None)

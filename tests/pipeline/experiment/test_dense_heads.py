"""A class for each pixel from folders of masks to results, through the stages of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.evaluation.shown_masks import ShownMasks
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import HeadProblems, require_heads, run_heads
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.setup.run_setup import init_seed, resolve_features
from pipeline.run_layout import RESULT, SHOWN_MASKS
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features, require_cached
from stages.fitting.feature_rows import StreamedFeatureRows
from stages.fitting.fit_head import train_head

COLORS = np.array([[30, 60, 200], [220, 40, 40], [40, 160, 60]])
OPTIONS = HeadConfig(head=("linear",), fit_epochs=8, fit_lr=(3e-2,), fit_batch_size=4)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Images of a block before a ground, of two sizes, with their masks; their maps are extracted."""
    root, rng = tmp_path_factory.mktemp("dense"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 14)):
        for number in range(count):
            mask = np.zeros((64, 64) if number % 2 else (48, 64), np.uint8)
            left = rng.integers(4, 40)
            mask[8:30, left : left + 22], mask[40:] = 1, 2
            image = COLORS[mask] + rng.normal(0, 10, (*mask.shape, 3))
            mask[:3] = 255
            for folder, pixels in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", mask)):
                path = root / "data" / folder / split / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    data = DataConfig(str(root / "data"))
    features = resolve_features(data, FeatureConfig(image_size=64, cache=root / "cache", device="cpu"))
    extractor = build_extractor(features)
    manifest, directory = init_seed(root / "run", data, features, 0, OPTIONS)
    extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, directory, data=data)


@pytest.fixture(scope="module")
def result(experiment):
    (trained,) = run_heads(experiment, ["linear"], OPTIONS)
    return trained


def test_a_run_says_mean_iou_and_pixel_accuracy_of_the_test_images(experiment, result):
    stored = json.loads((experiment.directory / "head-linear" / RESULT).read_text())
    assert stored["test"]["miou"] == result.test["miou"] > 0.6
    assert stored["test"]["pixel_accuracy"] > 0.8
    assert result.cv is None  # heads on maps are ranked on the validation split
    assert result.options["fit_epochs"] == 8
    assert result.options["fit_weight_decay"] == (0.01,)


def test_predictions_hold_counts_of_each_image_and_no_pixels(experiment, result):
    folder = experiment.directory / "head-linear"
    statistics = Result.load(folder).predictions.statistics
    assert statistics.shape == (14, 3, 3)
    test = experiment.split("test")
    known = [int((np.array(Image.open(mask)) != 255).sum()) for mask in test.targets]
    assert statistics.sum(axis=(1, 2)).tolist() == known


def test_the_masks_that_a_page_shows_are_of_the_size_of_the_images(experiment, result):
    shown = ShownMasks.load(experiment.directory / "head-linear" / SHOWN_MASKS)
    assert len(shown.keys) == 12
    assert [mask.shape for mask in shown.predicted] == [mask.shape for mask in shown.true]
    assert {mask.shape for mask in shown.true} == {(48, 64), (64, 64)}


def test_a_saved_head_says_of_an_image_what_it_said_of_its_cached_maps(experiment, result):
    _, extractor, upper = open_model(experiment.directory / "head-linear", "cpu")
    rows = torch.from_numpy(read_features(extractor, experiment.split("test").select([0]))).float()
    head = upper.model.head
    assert head(rows).shape == (1, 3, 8, 8)
    image = np.array(Image.open(experiment.split("test").locations[0]))
    view = extractor.backbone.preprocessing.render(torch.from_numpy(image).permute(2, 0, 1))
    again = head(extractor.features(view[None]))
    torch.testing.assert_close(again, head(rows), rtol=0.05, atol=0.05)  # rows are kept in 16 bits


def test_the_same_head_is_not_trained_again_and_another_mask_makes_it_another(experiment, result):
    (again,) = run_heads(experiment, ["linear"], OPTIONS)
    assert again.seconds == result.seconds
    with pytest.raises(UsageError, match="fit_epochs"):
        run_heads(experiment, ["linear"], HeadConfig(head=("linear",), fit_epochs=9))


def test_maps_larger_than_memory_are_streamed_as_they_are_read(experiment, result):
    problem = HeadProblems(experiment, OPTIONS).of("linear").problem
    stores = require_cached(experiment.extractor, experiment.manifest)

    def streamed(split):
        keys, labels = experiment.split(split).keys, experiment.manifest.indices(split)
        return StreamedFeatureRows(stores, keys, np.array(labels), 32 << 20)

    train, val = streamed("train"), streamed("val")
    assert np.array_equal(train.read(np.arange(3)), problem.train.features[:3])
    again = train_head("linear", replace(problem, train=train, val=val))
    assert again.val_score == pytest.approx(result.val["miou"], abs=0.2)  # batches come in another order


def test_heads_on_images_and_pooled_features_are_refused_before_anything_is_made(experiment):
    with pytest.raises(UsageError, match="lraspp"):
        require_heads(experiment.extractor, experiment.manifest, ["mlp"])
    features = FeatureConfig(image_size=64, cut="blocks.4", pool="max", device="cpu")
    with pytest.raises(UsageError, match="take `pool` none"):
        require_heads(build_extractor(features), experiment.manifest, ["lraspp"])
    features = FeatureConfig(image_size=64, cut="auto", pool="none", device="cpu")
    with pytest.raises(
        UsageError, match=r"is no map: .* Maps are blocks\.0 \(stride 2\), blocks\.1 \(stride 4\), blocks\.2"
    ):
        require_heads(build_extractor(features), experiment.manifest, ["lraspp"])


def test_several_images_and_columns_are_refused_for_they_have_no_masks(experiment):
    extractor, manifest = experiment.extractor, experiment.manifest
    with pytest.raises(UsageError, match="a mask is of one image"):
        require_heads(extractor, replace(manifest, images=[(None,)] * len(manifest)), ["lraspp"])
    with pytest.raises(UsageError, match="each pixel has a class"):
        run_heads(experiment, ["linear"], replace(OPTIONS, columns=("age",)))

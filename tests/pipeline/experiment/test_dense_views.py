"""Cached views of images with masks: masks move with their images, and lie where a border lets the image be."""

import json

import numpy as np
import pytest
import torch

from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import HeadProblems, run_heads
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.setup.run_setup import init_seed, resolve_features
from pipeline.run_layout import RESULT
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.finetuning.predict_masks import mask_statistics
from tests.dense_images import COLORS

VIEWS, VOID = 3, 255
OPTIONS = HeadConfig(head=("linear",), fit_epochs=12, fit_lr=(3e-2,), fit_batch_size=4)


@pytest.fixture(scope="module")
def experiment(dense_folder, tmp_path_factory):
    """Images of 48 x 64 seen in a square with a border, in two augmented views besides."""
    root = tmp_path_factory.mktemp("views")
    data = DataConfig(str(dense_folder))
    given = FeatureConfig(
        image_size=64,
        crop_mode="border",
        views=VIEWS,
        augment="crop(0.5)+flip",
        cache=root / "cache",
        device="cpu",
    )
    extractor = build_extractor(resolve_features(data, given))
    manifest, directory = init_seed(root / "run", data, extractor.options, 0, OPTIONS)
    extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, directory, data=data)


@pytest.fixture(scope="module")
def problem(experiment):
    return HeadProblems(experiment, OPTIONS).of("linear").problem


@pytest.mark.parametrize("view", range(VIEWS))
def test_a_mask_lies_where_the_cached_view_shows_its_image(experiment, problem, view):
    extractor, train = experiment.extractor, experiment.manifest.indices("train")
    masks = problem.targets.thinned(train, (64, 64), np.full(len(train), view))
    flipped = 0
    for place, mask in zip(train.tolist(), masks, strict=True):
        image = read_image(experiment.manifest.locations[place])
        shown = extractor.request("", experiment.manifest.keys[place], [view]).render(image)[0]
        distances = torch.cdist(shown.flatten(1).T.float(), torch.from_numpy(COLORS).float())
        of_colors = distances.argmin(dim=1).reshape(64, 64).numpy()
        known = mask != VOID
        assert (of_colors == mask)[known].mean() > 0.93
        assert 0.4 < known.mean() < 1  # beside the image there is void in a border, and a rim of each mask
        flipped += not np.array_equal(mask, problem.targets.thinned([place], (64, 64))[0])
    assert flipped == (0 if view == 0 else len(train))


def test_validation_images_have_the_evaluation_view_alone(experiment, problem):
    val = experiment.manifest.indices("val")
    asked = problem.targets.thinned(val, (16, 16), np.full(len(val), 2))
    assert np.array_equal(asked, problem.targets.thinned(val, (16, 16)))


def test_a_head_trains_on_all_views_and_is_scored_on_the_pixels_of_the_images(experiment):
    (result,) = run_heads(experiment, ["linear"], OPTIONS)
    folder = experiment.directory / "head-linear"
    assert json.loads((folder / RESULT).read_text())["settings"]["views"] == VIEWS
    assert result.test["miou"] > 0.5
    _, extractor, upper = open_model(folder, "cpu")
    from_images = mask_statistics(extractor, upper, experiment.split("test"))
    cached = Result.load(folder).predictions.statistics
    assert np.abs(from_images - cached).sum() < 0.02 * cached.sum()  # rows are kept in 16 bits

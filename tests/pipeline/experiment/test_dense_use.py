"""A method that gives a class for each pixel after its training: fine-tuned, on new images, on other masks."""

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.results import Result
from pipeline.evaluation.shown_masks import ShownMasks
from pipeline.experiment.evaluate_run import EvaluationOptions, evaluate_run
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.models.model_store import open_model
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.experiment.prediction.predict_masks import MaskOutput
from pipeline.run_layout import SHOWN_MASKS
from stages.config.finetune import FinetuneConfig
from stages.finetuning.predict_masks import mask_statistics
from tests.pipeline.experiment.test_dense_heads import OPTIONS, experiment, result  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def tuned(experiment, result):  # noqa: F811
    options = FinetuneConfig(init_head="linear", unfreeze="blocks.6", epochs=1, finetune_batch_size=4, num_workers=0)
    return run_finetune(experiment, options, OPTIONS)


def test_from_images_a_head_is_scored_as_on_its_cached_maps(experiment, result):  # noqa: F811
    _, extractor, upper = open_model(experiment.directory / "head-linear", "cpu")
    statistics = mask_statistics(extractor, upper, experiment.split("test"))
    cached = Result.load(experiment.directory / "head-linear").predictions.statistics
    assert np.abs(statistics - cached).sum() < 0.01 * cached.sum()  # rows are kept in 16 bits


def test_top_blocks_are_fine_tuned_tested_on_every_pixel_and_shown(experiment, tuned):  # noqa: F811
    folder = experiment.directory / "finetune-blocks.6"
    assert tuned.history[0]["val_miou"] > 0.5  # it starts from the head
    assert tuned.test["miou"] > 0.6
    known = [int((np.array(Image.open(mask)) != 255).sum()) for mask in experiment.split("test").targets]
    assert Result.load(folder).predictions.statistics.sum(axis=(1, 2)).tolist() == known
    shown = ShownMasks.load(folder / SHOWN_MASKS)
    assert [mask.shape for mask in shown.predicted] == [mask.shape for mask in shown.true]


@pytest.mark.parametrize("method", ["head-linear", "finetune-blocks.6"])
def test_the_masks_that_predict_writes_are_those_that_were_scored(experiment, tuned, method, tmp_path):  # noqa: F811
    test = experiment.split("test").select([0, 1])
    images = [*test.locations, str(tmp_path / "bad.png")]
    (tmp_path / "bad.png").write_bytes(b"none")
    predicted, unreadable = predict_images(
        experiment.directory / method, [*map(type(tmp_path), images)], "cpu", masks=MaskOutput(tmp_path / "out")
    )
    assert [location for location, _ in unreadable] == images[2:]
    statistics = Result.load(experiment.directory / method).predictions.statistics
    for number, prediction in enumerate(predicted):
        assert (prediction.unlike is None) == (method != "head-linear")  # a fine-tuned network has no detector
        assert sum(prediction.activated) == pytest.approx(1, abs=1e-5)
        (path,) = (tmp_path / "out" / "masks").rglob(f"test{number}.png")
        mask, true = np.array(Image.open(path)), np.array(Image.open(test.targets[number]))
        assert mask.shape == true.shape
        right = (mask == true)[true != 255].sum()
        assert right == pytest.approx(np.trace(statistics[number]), rel=0.01)


def test_other_masks_are_evaluated_by_the_classes_of_the_run(experiment, tuned, tmp_path):  # noqa: F811
    run, data = experiment.directory.parent, experiment.data.data
    options = EvaluationOptions(method="finetune-blocks.6", split="test", seen="keep", device="cpu")
    evaluate_run(run, data, {}, options, tmp_path / "out")
    again = Result.load(tmp_path / "out" / "seed-0" / "finetune-blocks.6")
    assert again.test["miou"] == pytest.approx(tuned.test["miou"], abs=1e-6)
    assert again.samples["test"] == 14


def test_a_head_is_evaluated_from_its_cached_maps(experiment, result, tmp_path, monkeypatch):  # noqa: F811
    def no_network(*_, **__):
        raise AssertionError("maps that are cached were computed again")

    monkeypatch.setattr("pipeline.experiment.evaluate_run.mask_statistics", no_network)
    run, data = experiment.directory.parent, experiment.data.data
    options = EvaluationOptions(method="head-linear", split="test", seen="keep", device="cpu")
    evaluate_run(run, data, {}, options, tmp_path / "out")
    again = Result.load(tmp_path / "out" / "seed-0" / "head-linear")
    assert np.array_equal(
        again.predictions.statistics, Result.load(experiment.directory / "head-linear").predictions.statistics
    )

"""Models whose backbone was handed in from Python: opened with it, and not without."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from cache.errors import UsageError, WeightsError
from pipeline.cli.app import main
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.models.model_store import open_model, write_card
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.run_layout import MODEL_CARD
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.images.preprocessing import Preprocessing
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.network.backbones.registry import load_backbone
from stages.network.backbones.user_module import backbone_from_module
from tests.own_network import OwnNetwork

EVEN = Preprocessing(32, 40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def run_of(backbone, photographs, folder, options) -> Experiment:
    extractor = build_extractor(FeatureConfig(cache=folder / "cache", **options), backbone)
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, folder / "run" / "seed-0")


@pytest.fixture(scope="module")
def seed(photographs, tmp_path_factory) -> Path:
    """Models on a network that was handed in: a head, the whole network fine-tuned, and that one with mirrored images."""
    experiment = run_of(
        backbone_from_module(OwnNetwork(), EVEN), photographs, tmp_path_factory.mktemp("own"), {"cut": "features"}
    )
    run_heads(experiment, ["ridge"], HeadConfig())
    for tta in ("none", "flip"):
        options = FinetuneConfig(unfreeze="all", epochs=1, init_head="ridge", tta=tta, num_workers=0)
        run_finetune(experiment, options, HeadConfig())
    return experiment.directory


@pytest.mark.parametrize("method", ["linear-ridge", "finetune-all", "finetune-all-flip"])
@pytest.mark.parametrize("given", [OwnNetwork, lambda: backbone_from_module(OwnNetwork(), EVEN)])
def test_with_the_same_network_it_answers_as_it_was_tested(seed, photographs, method, given):
    tested = Result.load(seed / method).predictions
    classified, unreadable = predict_images(seed / method, [photographs], backbone=given())
    assert not unreadable
    answers = {prediction.location: prediction.activated for prediction in classified}
    expected = dict(zip(tested.locations.tolist(), tested.statistics["probabilities"].tolist(), strict=True))
    assert len(expected) > 5
    # cached rows are rounded to 16 bits, and a temperature of images of which none is wrong stretches that
    assert np.allclose([answers[location] for location in expected], list(expected.values()), atol=1e-4)


def test_without_it_python_and_the_command_say_what_to_do(seed, photographs, capsys):
    with pytest.raises(UsageError, match=r"trained on OwnNetwork, a network that was handed in.*argument backbone of"):
        open_model(seed / "linear-ridge")
    assert main(["predict", str(seed.parent), str(photographs)]) == 2
    assert "hand it in again there, as the argument backbone of open_model or predict_images" in capsys.readouterr().err


def changed_weights():
    network = OwnNetwork()
    nn.init.zeros_(network.features[2].bias)
    return network


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (changed_weights, WeightsError, "other weights of OwnNetwork than are handed in now"),
        (
            lambda: OwnNetwork(2.0),
            UsageError,
            r"network 'OwnNetwork \w+', and the one.*or a setting of a module has changed",
        ),
        (
            lambda: backbone_from_module(OwnNetwork(), image_size=32),
            UsageError,
            "with Preprocessing.*resize=40.*resize=37",
        ),
    ],
    ids=("weights", "setting", "preprocessing"),
)
def test_another_network_is_refused(seed, given, error, message):
    with pytest.raises(error, match=message):
        open_model(seed / "linear-ridge", backbone=given())


def test_a_network_that_computes_the_same_is_taken_under_the_name_of_the_first(seed):
    identity = read_recipe(seed / "linear-ridge").handed_in["identity"]
    renamed = backbone_from_module(OwnNetwork(2.0), EVEN, name=identity)
    assert open_model(seed / "linear-ridge", backbone=renamed)[1].backbone is renamed


@pytest.mark.parametrize("given", [OwnNetwork, lambda: backbone_from_module(OwnNetwork(), EVEN)])
def test_a_model_sees_new_images_as_those_it_was_trained_on(photographs, tmp_path, given):
    """Also where the network was handed in with a center crop, and the option said otherwise."""
    backbone = backbone_from_module(OwnNetwork(), EVEN)
    experiment = run_of(backbone, photographs, tmp_path, {"cut": "features", "crop_mode": "squash"})
    run_heads(experiment, ["ncm"], HeadConfig())
    _, extractor, _ = open_model(experiment.directory / "linear-ncm", backbone=given())
    assert extractor.backbone.preprocessing == EVEN.with_crop_mode("squash")
    assert extractor.fingerprint == experiment.extractor.fingerprint
    assert Result.load(experiment.directory / "linear-ncm").options["crop_mode"] == "squash"


def test_a_model_of_a_backbone_with_a_name_opens_without_and_with_it(photographs, tmp_path):
    backbone = load_backbone("squeezenet1_1", "none", 64)
    options = {"weights": "none", "image_size": 64, "crop_mode": "border"}
    experiment = run_of(backbone, photographs, tmp_path, options)
    run_heads(experiment, ["ncm"], HeadConfig())
    model = experiment.directory / "linear-ncm"
    assert json.loads((model / MODEL_CARD).read_text())["handed_in"] is None
    opened = [open_model(model)[1], open_model(model, backbone=backbone)[1]]
    assert opened[0].fingerprint == opened[1].fingerprint == experiment.extractor.fingerprint
    with pytest.raises(UsageError, match="trained on squeezenet1_1, which is loaded by that name"):
        open_model(model, backbone=OwnNetwork())


@pytest.mark.parametrize("asked", [None, "auto", "bf16"])
def test_a_model_keeps_its_precision_by_name_so_that_another_machine_takes_no_other(photographs, tmp_path, asked):
    backbone = backbone_from_module(OwnNetwork(), EVEN)
    experiment = run_of(backbone, photographs, tmp_path, {"cut": "features", "precision": asked})
    run_heads(experiment, ["ncm"], HeadConfig())
    kept = read_recipe(experiment.directory / "linear-ncm").features["precision"]
    assert kept == ("bf16" if asked == "bf16" else experiment.extractor.trunk.precision)


def test_a_model_of_a_gpu_opens_where_there_is_none(seed):
    recipe = read_recipe(seed / "linear-ridge")
    try:
        of_a_gpu = {**recipe.features, "precision": "tf32", "compile_trunk": True, "decode_on": "cuda"}
        write_card(seed / "linear-ridge", replace(recipe, features=of_a_gpu))
        extractor = open_model(seed / "linear-ridge", "cpu", backbone=OwnNetwork())[1]
        assert extractor.trunk.arithmetic == "fp32"
        assert not extractor.reading.nvjpeg
    finally:
        write_card(seed / "linear-ridge", recipe)

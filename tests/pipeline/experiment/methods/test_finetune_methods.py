"""The head that a fine-tuning starts from: that of the run, and never one that takes its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods import finetune_methods
from pipeline.experiment.methods.finetune_methods import (
    _starting_head,
    format_lr_suggestions,
    run_finetune,
    run_finetunings,
    with_rates,
)
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.export.equality import compare_with_run, samples_of_run
from pipeline.library.export_model import export_model, open_trained
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.finetuning.finetune import finetune
from stages.network.backbones.user_module import backbone_from_module
from stages.network.heads.serialization import load_head
from stages.tasks.dense import Dense
from stages.training.lr_finder import LRFinderResult
from tests.own_network import OwnNetwork

RIDGE = FinetuneConfig(init_head="ridge")


@pytest.fixture
def experiment(photographs, tmp_path) -> Experiment:
    options = FeatureConfig(cache=tmp_path / "cache", cut="features")
    extractor = build_extractor(options, backbone_from_module(OwnNetwork(), image_size=32))
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, tmp_path / "run" / "seed-0")


def test_a_head_that_the_run_has_otherwise_is_left_alone_and_another_one_is_fitted(experiment):
    run_heads(experiment, ["ridge"], HeadConfig(c_values=(1e-5,), scalers=("none",)))
    kept = {path: path.read_bytes() for path in experiment.directory.rglob("*") if path.is_file()}
    head, seconds = _starting_head(experiment, RIDGE, HeadConfig())
    assert seconds > 0
    assert {path: path.read_bytes() for path in experiment.directory.rglob("*") if path.is_file()} == kept
    # it is the one that a run without any would have
    elsewhere = replace(experiment, directory=experiment.directory.parent / "elsewhere")
    same, _ = _starting_head(elsewhere, RIDGE, HeadConfig())
    saved, _ = load_head(elsewhere.directory / "linear-ridge" / "head-without-val.safetensors")
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
        assert torch.equal(tensor, saved.state_dict()[name])
    other, _ = load_head(experiment.directory / "linear-ridge" / "head-without-val.safetensors")
    assert any(not torch.equal(tensor, other.state_dict()[name]) for name, tensor in head.state_dict().items())


def test_weights_of_classes_are_those_of_the_loss_but_where_each_pixel_has_one(experiment, caplog, monkeypatch):
    train = experiment.manifest.indices("train")
    rare = train[experiment.manifest.targets[train] == 2][1:]
    splits = ["none" if index in rare else split for index, split in enumerate(experiment.manifest.splits)]
    uneven = replace(experiment, manifest=replace(experiment.manifest, splits=tuple(splits)))
    options = replace(RIDGE, unfreeze="1", epochs=1, num_workers=0)
    balanced = HeadConfig(class_weights="balanced")
    weighed = []

    def noted(problem, *given, **named):
        weighed.append(problem)
        return finetune(problem, *given, **named)

    monkeypatch.setattr(finetune_methods, "finetune", noted)
    with caplog.at_level("INFO", logger="cutonce"):
        run_finetunings(uneven, options, balanced)
        assert "`class_weights`" not in caplog.text
        assert weighed[0].class_weights.present[2] > 3 * weighed[0].class_weights.present[0]
        monkeypatch.setattr(finetune_methods, "run_finetune", lambda *given: given)
        masks = replace(experiment.manifest, task=Dense(experiment.manifest.task.class_names))
        run_finetunings(replace(experiment, manifest=masks), options, balanced)
    assert "`class_weights` balanced is for heads where each pixel has a class" in caplog.text


def test_a_network_tuned_by_lora_is_saved_and_exported_as_a_plain_one(photographs, tmp_path):
    options = FeatureConfig(
        backbone="timm:vit_tiny_patch16_224", weights="none", image_size=32, cache=tmp_path / "cache"
    )
    extractor, manifest = build_extractor(options), load_manifest(DataConfig(str(photographs)))
    experiment = Experiment(extractor, manifest, 0, tmp_path / "run" / "seed-0")
    experiment.directory.mkdir(parents=True)
    manifest.save(experiment.directory / "manifest.csv")
    lora = FinetuneConfig(unfreeze="1", lora=4, epochs=1, lr=1e-2, head_lr=1e-2, init_head="new", num_workers=0)
    result = run_finetune(experiment, lora, HeadConfig())
    assert (result.name, result.settings["lora"]) == ("top-1-lora-4", 4)
    directory = experiment.directory / "finetune-top-1-lora-4"
    model = open_trained(directory, "cpu")
    top, pretrained = model.transfer.model.top.state_dict(), extractor.backbone.module.state_dict()
    assert set(top) <= set(pretrained)
    assert not torch.equal(top["blocks.11.attn.qkv.weight"], pretrained["blocks.11.attn.qkv.weight"])
    assert torch.equal(top["blocks.11.attn.qkv.bias"], pretrained["blocks.11.attn.qkv.bias"])
    found = []

    def same_answers(model, run_file):
        found.append(compare_with_run(model, run_file, samples_of_run(model)))

    export_model(directory, tmp_path / "tuned.pt2", check=same_answers)
    assert found[0].samples > 5
    plain = run_finetune(experiment, replace(lora, lora=0), HeadConfig())
    assert (plain.name, "lora" in plain.settings) == ("top-1", False)


def test_only_the_rates_that_options_name_are_told_as_options():
    def found(block, suggestion):
        return LRFinderResult(np.ones(2), np.ones(2), np.ones(2), suggestion, block)

    assert format_lr_suggestions([found(None, 1e-3)], "") == ["`lr` 1.0e-03"]
    blocks = [found("head", 1e-2), found("conv_head", None), found("blocks.6", 3e-4)]
    assert format_lr_suggestions(blocks, "as it was") == [
        "`head_lr` 1.0e-02",
        "the loss never falls by more than chance; as it was",
        "a rate of 3.0e-04",
    ]
    assert format_lr_suggestions([blocks[0], found("conv_head", 2e-4), blocks[2]], "")[1:] == [
        "`lr` 2.0e-04",
        "a rate of 3.0e-04",
    ]


def test_another_rate_has_a_name_of_its_own_where_the_run_has_one_by_this_name(experiment):
    options = FinetuneConfig(unfreeze="1", epochs=1, init_head="new", num_workers=0)
    rates = {"lr": 1.1e-4}
    assert with_rates(experiment, options, HeadConfig(), rates) == replace(options, lr=1.1e-4)
    run_finetune(experiment, options, HeadConfig())
    assert with_rates(experiment, options, HeadConfig(), {"lr": options.lr}) == options  # that is what the run has
    named = with_rates(experiment, options, HeadConfig(), rates)
    assert named == replace(options, lr=1.1e-4, name="top-1-lr-1.1e-04")
    run_finetunings(experiment, named, HeadConfig())
    assert (experiment.directory / "finetune-top-1-lr-1.1e-04" / "result.json").exists()

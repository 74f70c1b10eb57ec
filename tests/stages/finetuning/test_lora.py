"""LoRA on vision transformers with random weights: what trains, what comes of it, and where it has no place."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models import VisionTransformer

import stages.finetuning.finetune
from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.extraction.extractor import build_extractor
from stages.finetuning.baselines import baseline, random_head
from stages.finetuning.finetune import finetune
from stages.finetuning.lora import add_lora, merge_lora
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.setup import TrainableSetup, training_fingerprint
from stages.finetuning.transfer_model import build_transfer_model, rebuild_transfer_model
from stages.network.backbones.user_module import backbone_from_module
from stages.training.ema import TrainableState

QUICK = FinetuneConfig(
    unfreeze="2", lora=4, epochs=2, lr=1e-2, head_lr=1e-2, finetune_batch_size=8, num_workers=0, init_head="new"
)


def timm_vit(folder):
    features = FeatureConfig(backbone="timm:vit_tiny_patch16_224", weights="none", image_size=32, cache=folder)
    return build_extractor(features)


def torchvision_vit(folder):
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 3, 2, 32, 64).eval()
    return build_extractor(FeatureConfig(cache=folder), backbone_from_module(network, image_size=32))


@pytest.fixture(params=[timm_vit, torchvision_vit])
def problem(request, probe, tmp_path):
    extractor = request.param(tmp_path / "cache")
    return FinetuneProblem(extractor, probe.manifest, random_head(extractor, 3, 0), QUICK, 0)


def test_before_the_first_step_adapters_change_nothing_and_they_alone_train(problem):
    plain, adapted = (
        build_transfer_model(problem.extractor, problem.head, replace(QUICK, lora=rank)) for rank in (0, 4)
    )
    answers = [predict_proba(problem.extractor, upper, problem.manifest) for upper in (plain, adapted)]
    assert np.allclose(*answers, atol=1e-6)
    trained = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for _, names in adapted.blocks for name in names}
    assert {name for name in trained if not name.startswith("head.")} == {
        name for name, _ in adapted.model.named_parameters() if ".lora_A." in name or ".lora_B." in name
    }
    assert adapted.trained == plain.trained
    counts = [sum(p.numel() for p in upper.model.top.parameters() if p.requires_grad) for upper in (plain, adapted)]
    assert 0 < counts[1] < counts[0] / 2


def test_optimizer_and_checkpoints_hold_adapters_and_head_alone(problem):
    setup = TrainableSetup.of(problem.extractor, problem.head, QUICK, 0)
    held = set(TrainableState(setup.upper.model, setup.optimizer).of(setup.upper.model))
    assert held == {name for _, names in setup.upper.blocks for name in names}
    assert all(".lora_" in name or name.startswith("head.") for name in held)


def test_frozen_weights_keep_every_bit_while_adapters_learn(problem, monkeypatch):
    seen = {}

    def keep(top):
        seen.update(copy.deepcopy(top.state_dict()))
        merge_lora(top)

    monkeypatch.setattr("stages.finetuning.finetune.merge_lora", keep)
    result = finetune(problem)
    assert result.fit.best.epoch > 0
    before = problem.extractor.backbone.module.state_dict()
    frozen = {
        name.replace(".base_layer", "").replace("in_proj.", "in_proj_"): value  # as an attention has it
        for name, value in seen.items()
        if ".lora_" not in name
    }
    assert len(frozen) > 10
    assert all(torch.equal(before[name], value.cpu()) for name, value in frozen.items())
    gates = [value for name, value in seen.items() if ".lora_B." in name]
    assert gates
    assert all(value.any() for value in gates)


def test_what_comes_of_it_is_the_plain_network_that_answers_the_same(problem, monkeypatch):
    plain = rebuild_transfer_model(problem.extractor, problem.head, "2")
    answers, train = [], stages.finetuning.finetune.train

    def answer_before_merging(run, *others):
        result = train(run, *others)
        answers.append(predict_proba(problem.extractor, replace(plain, model=run.model), problem.manifest))
        return result

    monkeypatch.setattr("stages.finetuning.finetune.train", answer_before_merging)
    result = finetune(problem)
    merged = result.upper.model.state_dict()
    assert {name: value.shape for name, value in merged.items()} == {
        name: value.shape for name, value in plain.model.state_dict().items()
    }
    plain.model.load_state_dict(merged)
    again = predict_proba(problem.extractor, plain, problem.manifest)
    assert np.allclose(again, answers[0], atol=1e-5)
    untrained = build_transfer_model(problem.extractor, result.head, replace(QUICK, lora=0))
    assert np.abs(predict_proba(problem.extractor, untrained, problem.manifest) - again).max() > 1e-3
    adapters = sum(parameter.numel() for parameter in result.head.parameters())
    assert adapters < result.trainable_parameters < sum(tensor.numel() for tensor in merged.values()) / 2


def test_a_network_of_convolutions_has_nothing_to_adapt(probe):
    with pytest.raises(UsageError, match=r"`lora` 4 adapts linear layers.*vision transformers.*`unfreeze`.*none"):
        build_transfer_model(probe.extractor, probe.head, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reinit": "1"}, r"`lora` 4 with `reinit`: what is drawn anew has to train itself"),
        ({"wise_ft": True}, r"`lora` 4 with `wise_ft`: "),
        ({"unfreeze": "head"}, r"`lora` 4 with `unfreeze` head: no block is unfrozen"),
        ({"lora": -1}, "lora"),
    ],
)
def test_what_it_leaves_nothing_to_do_for_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        replace(QUICK, **options)


def test_the_library_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"`lora` needs the package peft: pip install 'peft"):
        add_lora(torch.nn.Linear(2, 2), [""], 4, 0)


def test_baselines_have_no_adapters_and_trainings_of_before_the_option_are_found_again(problem):
    assert baseline(QUICK, "scratch").lora == 0
    assert training_fingerprint(problem)["lora"] == 4
    assert "lora" not in training_fingerprint(replace(problem, config=replace(QUICK, lora=0)))

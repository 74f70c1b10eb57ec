"""Where the trainable part of a network joins the frozen one, and what of it trains."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.registry import ENGINES
from stages.extraction.engine import on_accelerator, on_cores, register_engine
from stages.extraction.extractor import build_extractor
from stages.finetuning.baselines import baseline
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.transfer_model import build_transfer_model
from stages.fitting.fit_head import head_probabilities
from stages.network.heads.linear import LinearHead
from stages.runtime.float32 import float32_products
from stages.tasks.single_label import SingleLabel
from tests.plug_ins import forget_afterwards
from tests.stages.fitting.rows_of_digits import TEN_CLASSES


@pytest.mark.parametrize("unfreeze", ["1", "3", "blocks.4", "all", "head", "blocks.4,", "conv_stem,blocks.5"])
def test_before_the_first_step_the_network_answers_what_stage_two_answered(probe, unfreeze):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze=unfreeze))
    from_images = predict_proba(probe.extractor, upper, probe.manifest)
    assert np.allclose(from_images, head_probabilities(probe.head, probe.features, TEN_CLASSES), atol=1e-4)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True), ("tf32", True)])
def test_what_trained_answers_in_the_arithmetic_of_the_precision_whatever_torch_is_set_to(
    gpu, tmp_path, monkeypatch, precision, tf32
):
    options = FeatureConfig(weights="none", image_size=32, cache=tmp_path, precision=precision)
    extractor = build_extractor(options)
    head = LinearHead(extractor.row_shape, 3, 0.0)
    upper = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="1"))
    rows, found = upper.model.rows, []

    def noted(given):
        found.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return rows(given)

    monkeypatch.setattr(upper.model, "rows", noted)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8).cuda()
    for of_process in (False, True):
        with float32_products(tf32=of_process):
            upper.rows(images)
    assert found == [(tf32, tf32)] * 2
    on_cores = build_extractor(replace(options, device="cpu", precision="auto"))
    assert not build_transfer_model(on_cores, head, FinetuneConfig(unfreeze="1")).tf32


def trained_names(upper):
    return {name for name, parameter in upper.model.named_parameters() if parameter.requires_grad}


def test_blocks_hold_all_that_trains_once_from_the_head_down(probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4"))
    assert [name for name, _ in upper.blocks] == ["head", "conv_head", "blocks.6", "blocks.5", "blocks.4"]
    names = [name for _, names_of_block in upper.blocks for name in names_of_block]
    assert len(names) == len(set(names))
    assert set(names) == trained_names(upper)
    assert "top.bn2.weight" in dict(upper.blocks)["conv_head"]  # a normalisation goes with the block before it


def test_what_lies_before_the_first_block_goes_with_it(tmp_path):
    extractor = build_extractor(FeatureConfig(backbone="timm:vit_tiny_patch16_224", weights="none", cache=tmp_path))
    upper = build_transfer_model(extractor, LinearHead(extractor.row_shape, 3, 0.0), FinetuneConfig(unfreeze="all"))
    blocks = dict(upper.blocks)
    assert {"top.cls_token", "top.pos_embed"} <= set(blocks["patch_embed"])
    assert set(trained_names(upper)) == {name for names_of_block in blocks.values() for name in names_of_block}


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_convnext"])
def test_networks_whose_normalisation_is_traced_through_begin_from_scratch(backbone, tmp_path):
    extractor = build_extractor(FeatureConfig(backbone=backbone, weights="none", cache=tmp_path))
    scratch = baseline(FinetuneConfig(), "scratch")
    upper = build_transfer_model(extractor, LinearHead(extractor.row_shape, 3, 0.0), scratch)
    norms = [value for name, value in upper.model.top.named_parameters() if "norm" in name and name.endswith("weight")]
    assert len(norms) > 5
    assert all(torch.equal(value, torch.ones_like(value)) for value in norms)


def test_a_block_that_the_network_calls_head_is_not_the_head(tmp_path):
    options = FeatureConfig(backbone="timm:test_mambaout", weights="none", image_size=32, device="cpu", cache=tmp_path)
    extractor = build_extractor(options)
    upper = build_transfer_model(extractor, LinearHead(extractor.row_shape, 3), FinetuneConfig(unfreeze="2"))
    blocks = dict(upper.blocks)
    assert list(blocks) == ["head", "network's head", "stages.3"]
    assert set(blocks["head"]) == {"head.output.weight", "head.output.bias"}
    assert "top.head.norm.weight" in blocks["network's head"]
    assert upper.trained == ("network's head", "stages.3")
    upper.train_only(["head"])
    assert trained_names(upper) == set(blocks["head"])


def test_a_list_trains_just_those_layers_and_an_inversion_the_others(probe):
    listed = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.3,blocks.5"))
    assert listed.trained == ("blocks.5", "blocks.3")
    inverted = build_transfer_model(
        probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.3", invert_unfreeze=True)
    )
    assert inverted.trained == ("blocks.2", "blocks.1", "blocks.0", "conv_stem")
    assert inverted.boundary is None
    assert build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="head")).trained == ()


def test_blocks_can_be_frozen_and_unfrozen_again(probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="2", batchnorm="train"))
    everything = trained_names(upper)
    upper.train_only(["head"])
    upper.model.train()
    assert trained_names(upper) == {"head.output.weight", "head.output.bias"}
    assert not any(module.training for module in upper.model.top.modules() if isinstance(module, torch.nn.BatchNorm2d))
    upper.train_only([name for name, _ in upper.blocks])
    upper.model.train()
    assert trained_names(upper) == everything
    assert all(module.training for module in upper.model.top.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_layers_drawn_anew_are_random_and_use_the_statistics_of_the_batch(probe):
    before = copy.deepcopy(probe.extractor.backbone.module.state_dict())
    upper = build_transfer_model(
        probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4", reinit="blocks.6"), seed=3
    )
    top = upper.model.top
    anew = {name for name, value in top.named_parameters() if not torch.equal(value.cpu(), before[name])}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in anew if name.startswith("blocks")} == {"blocks.6"}
    assert "conv_head.weight" in anew
    assert torch.equal(top.get_parameter("blocks.5.0.conv_pw.weight").cpu(), before["blocks.5.0.conv_pw.weight"])
    upper.model.train()
    modes = {name: layer.training for name, layer in top.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert modes["blocks.6.0.bn1"]
    assert not modes["blocks.5.0.bn1"]
    rebuilt = build_transfer_model(
        probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4", reinit="blocks.6"), seed=3
    )
    other = build_transfer_model(
        probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4", reinit="blocks.6"), seed=4
    )
    assert torch.equal(rebuilt.model.top.conv_head.weight, top.conv_head.weight)
    assert not torch.equal(other.model.top.conv_head.weight, top.conv_head.weight)
    after = probe.extractor.backbone.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the pretrained network was touched"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unfreeze": "1", "reinit": "blocks.5"}, "stay frozen, blocks.5.*`unfreeze` blocks.5"),
        ({"unfreeze": "all", "reinit": "classifier"}, "draws nothing anew.*new head"),
        ({"unfreeze": "block.5"}, "blocks.5"),
        ({"unfreeze": "all", "invert_unfreeze": True}, "nothing is left to train|[Nn]othing"),
        ({"unfreeze": "head", "invert_unfreeze": True}, "all but the head"),
        ({"unfreeze": "classifier"}, "at or above the cut"),
    ],
)
def test_what_cannot_be_trained_is_refused(probe, options, words):
    with pytest.raises(UsageError, match=words):
        build_transfer_model(probe.extractor, probe.head, FinetuneConfig(**options))


def test_stochastic_depth_leaves_branches_out_in_training_alone(probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4", drop_path=0.9))
    boundary = torch.randn(8, *upper.boundary.shape, generator=torch.Generator().manual_seed(0))
    boundary = boundary.to(probe.extractor.device)
    assert torch.equal(upper.model.eval()(boundary), upper.model(boundary))
    plain = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="blocks.4"))
    assert torch.equal(upper.model(boundary), plain.model.eval()(boundary))
    upper.model.train()
    assert not torch.equal(upper.model(boundary), upper.model(boundary))


def test_a_network_without_stochastic_depth_says_so(tmp_path):
    extractor = build_extractor(FeatureConfig(backbone="resnet18", weights="none", image_size=64, cache=tmp_path))
    with pytest.raises(
        UsageError, match=r"`drop_path` 0.2.*no branches.*let blocks that have them train \(`unfreeze`\)"
    ):
        build_transfer_model(extractor, LinearHead((512,), 3, 0.0), FinetuneConfig(unfreeze="layer4", drop_path=0.2))


def test_dropout_before_the_head_is_on_in_training_alone(probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="head", finetune_dropout=0.5))
    x = torch.rand(4, *upper.boundary.shape, device=probe.extractor.device)
    upper.model.train()
    assert not torch.equal(upper.model(x), upper.model(x))
    assert torch.equal(upper.model.eval()(x), upper.model(x))


def test_unfreezing_at_or_above_the_cut_is_refused(photographs, tmp_path):
    extractor = build_extractor(FeatureConfig(image_size=64, cache=tmp_path, cut="blocks.4"))
    for unfreeze in ("blocks.5", "1"):
        with pytest.raises(UsageError, match="at or above the cut"):
            build_transfer_model(extractor, torch.nn.Linear(112, 3), FinetuneConfig(unfreeze=unfreeze))


@pytest.mark.parametrize("tta", ["flip", "crops"])
def test_test_time_augmentation_answers_with_the_mean_over_the_renderings(probe, tta):
    from stages.data.augment.tta import TestTimeAugmentation
    from stages.data.sources.open_image import read_image

    # a GPU shows other colors of these files than a CPU
    extractor = build_extractor(replace(probe.extractor.options, decode_on="cpu"))
    upper = build_transfer_model(extractor, probe.head, FinetuneConfig(unfreeze="2"))
    subset = probe.manifest.select(range(0, 72, 9))
    predicted = predict_proba(extractor, upper, subset, tta)
    renderings = TestTimeAugmentation(extractor.backbone.preprocessing, tta)
    for row, location in zip(predicted, subset.locations, strict=True):
        probabilities, _ = upper.activated(renderings(read_image(location)), probe.manifest.task)
        assert np.allclose(row, probabilities.mean(dim=0).cpu().numpy(), atol=_rendered_elsewhere(extractor))
    assert not np.allclose(predicted, predict_proba(extractor, upper, subset), atol=1e-4)


def _rendered_elsewhere(extractor):
    """How close probabilities are of images that a GPU decodes and renders by itself, and here a CPU, or one by one."""
    return 1e-5 if extractor.device.type == "cpu" else 0.03


def test_images_whose_renderings_are_in_two_batches_are_answered_whole(probe, monkeypatch):
    """As it happens on accelerators, whose batches are filled across images."""
    from stages.extraction import extractor as extraction

    extractor = build_extractor(replace(probe.extractor.options, decode_on="cpu"))
    upper = build_transfer_model(extractor, probe.head, FinetuneConfig(unfreeze="1"))
    expected = predict_proba(extractor, upper, probe.manifest, "flip")

    def in_batches_of_seven(requests, compute, device, batch_size, threads, renderings=1):
        return on_accelerator(requests, compute, device, 7, threads, renderings)

    monkeypatch.setattr(extraction, "get_engine", lambda name, device: in_batches_of_seven)
    close = _rendered_elsewhere(extractor)
    assert np.allclose(predict_proba(extractor, upper, probe.manifest, "flip"), expected, atol=close)


def test_the_engine_that_the_options_name_computes_predictions_too(probe, monkeypatch):
    forget_afterwards(monkeypatch, ENGINES)
    threads_of_calls = []

    @register_engine("counting", automatic=False)
    def counting(requests, compute, device, batch_size, threads, renderings=1, /):
        threads_of_calls.append(threads)
        run = on_cores if device.type == "cpu" else on_accelerator
        return run(requests, compute, device, batch_size, threads, renderings)

    extractor = replace(probe.extractor, options=replace(probe.extractor.options, engine="counting"))
    upper = build_transfer_model(extractor, probe.head, FinetuneConfig(unfreeze="1"))
    predict_proba(extractor, upper, probe.manifest)
    assert threads_of_calls == [extractor.threads]


def test_the_upper_part_is_a_copy(probe):
    upper = build_transfer_model(probe.extractor, probe.head, replace(FinetuneConfig(), unfreeze="1"))
    with torch.no_grad():
        for parameter in upper.model.parameters():
            parameter.zero_()
    fresh = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="1"))
    assert all(parameter.abs().sum() > 0 for name, parameter in fresh.model.named_parameters() if "weight" in name)


def test_auxiliary_classifiers_lie_in_what_trains_and_answer_in_training_alone(tmp_path):
    extractor = build_extractor(FeatureConfig(backbone="googlenet", weights="none", image_size=96, cache=tmp_path))
    head = LinearHead(extractor.row_shape, 3, 0.0)
    upper = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="inception4c"))
    assert upper.model.auxiliary == {"aux2": 0.3}  # the other one lies below
    assert any(name.startswith("top.aux2.") for name in dict(upper.blocks)["head"])
    assert not any(name.startswith("aux") for name in upper.without_auxiliary_heads())
    x = torch.rand(4, *upper.boundary.shape, device=extractor.device)
    answers = upper.model.eval()(x)
    upper.model.train()
    logits, ((weight, auxiliary_logits),) = upper.model(x)
    assert (answers.shape, logits.shape, weight, auxiliary_logits.shape) == ((4, 3), (4, 3), 0.3, (4, 3))
    without = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="inception4c", auxiliary=False))
    assert without.model.train()(x).shape == (4, 3)
    assert torch.equal(without.model.eval()(x), answers)
    assert len(build_transfer_model(extractor, head, FinetuneConfig(unfreeze="all")).model.auxiliary) == 2


class Unactivated(SingleLabel):
    def activate(self, output, shapes=None):
        return output.float()


def test_what_is_answered_is_what_the_task_makes_of_the_logits(probe):
    upper = build_transfer_model(probe.extractor, probe.head, FinetuneConfig(unfreeze="head"))
    size = probe.extractor.backbone.preprocessing.image_size
    images = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()
    logits, _ = upper.activated(images, Unactivated(probe.manifest.class_names))
    probabilities, _ = upper.activated(images, probe.manifest.task)
    assert torch.equal(logits.softmax(dim=1), probabilities)
    assert not torch.equal(logits, probabilities)

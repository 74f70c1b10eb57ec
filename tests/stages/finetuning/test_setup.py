"""Every option of fine-tuning gets to where it acts, with its value; that it acts there is held where it is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from cache.errors import DataError, UsageError
from stages.config.finetune import FinetuneConfig
from stages.data.augment.mixup import MixupCutmix
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.setup import FinetuneSetup, make_mixing, training_fingerprint
from stages.finetuning.transfer_model import HEAD
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.knn import KNNHead
from stages.tasks.regression import Regression

PLAIN = FinetuneConfig(unfreeze="blocks.5", epochs=4, lr=1e-3, head_lr=5e-3, finetune_batch_size=8, num_workers=0)


def problem(probe, **changed):
    return FinetuneProblem(probe.extractor, probe.manifest, probe.head, replace(PLAIN, **changed), 3)


def ready(probe, **changed):
    return FinetuneSetup.to_train(problem(probe, **changed), lambda *_: None)


@pytest.mark.parametrize(
    ("name", "value", "of_training"),
    [
        ("label_smoothing", 0.2, {"label_smoothing": 0.2}),
        ("l1", 1e-4, {"l1": 1e-4}),
        ("clip_grad", 0.01, {"clip_grad": 0.01}),
        ("grad_accum_steps", 2, {"grad_accum_steps": 2}),
        ("amp_dtype", "bf16", {"amp_dtype": "bf16"}),
        ("amp_dtype", "auto", {"amp_dtype": "none"}),  # until it has been tried
        ("model_ema_decay", 0.9, {"model_ema_decay": 0.9}),
        ("checkpoint_minutes", 0.5, {"checkpoint_seconds": 30.0}),
        ("epochs", 7, {"epochs": 7}),
    ],
)
def test_options_of_the_loop_change_their_own_setting_of_it_and_no_other(probe, name, value, of_training):
    plain, changed = ready(probe).trainee.training, ready(probe, **{name: value}).trainee.training
    assert plain.seed == 3
    assert changed == replace(plain, **of_training)


def test_weights_of_classes_are_part_of_what_trains_and_of_what_tells_it_from_others(probe):
    plain, balanced = problem(probe), replace(problem(probe), balanced=True)
    assert plain.class_weights is None
    counts = np.bincount(balanced.train.targets)
    weights = FinetuneSetup.to_train(balanced, lambda *_: None).run(balanced).class_weights.present
    assert (weights.numpy() * counts).tolist() == pytest.approx([len(balanced.train) / len(counts)] * len(counts))
    told = training_fingerprint(balanced)
    assert told == training_fingerprint(plain) | {"class_weights": "balanced"}
    numbers = replace(probe.manifest, task=Regression(("price",)), targets=np.zeros((len(probe.manifest), 1)))
    with pytest.raises(UsageError, match="`class_weights` balanced weighs classes, and the task regression has none"):
        FinetuneSetup.to_train(replace(balanced, manifest=numbers), lambda *_: None)


@pytest.mark.parametrize(
    ("options", "of_schedule"),
    [
        ({"schedule": "restarts", "cycle_epochs": 2, "cycle_mul": 2}, {"kind": "restarts", "cycle_mul": 2}),
        ({"schedule": "triangular2", "cycle_epochs": 1}, {"kind": "triangular2", "cycle_epochs": 1}),
        ({"schedule": "step", "decay_epochs": 3, "decay_rate": 0.3}, {"decay_epochs": 3, "factor": 0.3}),
        ({"schedule": "plateau", "plateau_patience": 5}, {"kind": "plateau", "patience": 5}),
        ({"warmup": 0.25}, {"warmup": 0.25}),
    ],
)
def test_options_of_the_schedule_get_to_it(probe, options, of_schedule):
    schedule = ready(probe, **options).trainee.schedule
    assert {name: getattr(schedule, name) for name in of_schedule} == of_schedule


def test_the_optimizer_is_the_one_that_was_asked_for_with_rates_and_decays_of_its_blocks(probe):
    sgd = ready(probe, opt="sgd", momentum=0.7, weight_decay=0.5, layer_decay=0.1).trainee.optimizer
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.7 for group in sgd.param_groups)
    assert type(ready(probe, opt="lamb").trainee.optimizer).__name__ == "Lamb"
    rates = {group["block"]: group["lr"] for group in sgd.param_groups}
    assert rates == pytest.approx({HEAD: 5e-3, "conv_head": 1e-3, "blocks.6": 1e-4, "blocks.5": 1e-5})
    decayed = {parameter.ndim > 1: group["weight_decay"] for group in sgd.param_groups for parameter in group["params"]}
    assert decayed == {True: 0.5, False: 0.0}


def test_noise_of_training_gets_into_the_network(probe):
    assert ready(probe).trainee.upper.model.dropout.p == 0.0
    model = ready(probe, finetune_dropout=0.5, drop_path=0.3).trainee.upper.model
    assert model.dropout.p == 0.5
    rates = [layer.drop_prob for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(("batchnorm", "moves"), [("train", True), ("eval", False)])
def test_statistics_move_where_that_was_asked_for(probe, batchnorm, moves):
    model = ready(probe, batchnorm=batchnorm).trainee.upper.model.train()
    of_trained = {
        layer.training
        for name, layer in model.top.named_modules()
        if isinstance(layer, nn.BatchNorm2d) and name.startswith(("blocks.5", "blocks.6", "bn2"))
    }
    assert of_trained == {moves}


def test_what_is_mixed_is_what_the_network_is_given(probe, tmp_path):
    upper = ready(probe).trainee.upper
    assert make_mixing(PLAIN, upper) is None
    mixing = make_mixing(replace(PLAIN, mixup=0.4, cutmix=1.0, from_cache=True), upper)
    assert mixing == MixupCutmix(0.4, 1.0, "nchw")

    options = replace(probe.extractor.options, augment="none", cache=tmp_path)
    map_probe = probe._replace(extractor=replace(probe.extractor, options=options))
    plain, mixed = (ready(map_probe, from_cache=True, mixup=alpha).source for alpha in (0.0, 0.4))
    for step, (whole, given) in enumerate(zip(plain.train(2, 0), mixed.train(2, 0), strict=True)):
        inputs, targets = MixupCutmix(0.4, 0.0)(whole[0].cpu(), torch.eye(3)[whole[1].cpu()], 3, 2, step)
        assert torch.equal(given[0].cpu(), inputs)
        assert torch.equal(given[1].cpu(), targets)


def test_a_fingerprint_changes_with_what_shapes_a_training_and_with_nothing_else(probe):
    plain = training_fingerprint(problem(probe))
    assert training_fingerprint(problem(probe, num_workers=2, checkpoint_minutes=0.0, tta="flip")) == plain
    for changed in ({"lr": 2e-3}, {"mixup": 0.1}, {"batchnorm": "train"}):
        (name,) = changed
        differing = {
            key for key, value in training_fingerprint(problem(probe, **changed)).items() if value != plain[key]
        }
        assert len(differing) == 1, name
    assert training_fingerprint(replace(problem(probe), head=probe.ignorant())) != plain


def test_a_fingerprint_tells_heads_apart_that_have_the_same_weights(probe):
    new = replace(problem(probe), config=replace(PLAIN, init_head="new"))
    width = probe.extractor.row_shape[0]

    def on_rows(kind):
        return replace(new, head=AggregatedHead(Aggregate(kind, 2, width), probe.head))

    means, maxima = training_fingerprint(on_rows("mean")), training_fingerprint(on_rows("max"))
    assert maxima == {**means, "aggregate": "max"}
    rows, labels = np.eye(6, width, dtype=np.float32), np.arange(6) % 3
    votes = [training_fingerprint(replace(problem(probe), head=KNNHead.from_rows(rows, labels, 3, k))) for k in (1, 5)]
    assert votes[0] != votes[1]


@pytest.mark.parametrize(
    "zeros", [{"lr_find": "start", "lr": 0, "head_lr": 0}, {"lr_find": "each", "unfreeze_every": 1, "lr": 0}]
)
def test_a_range_test_of_rates_of_zero_is_refused_before_anything_is_trained(zeros):
    with pytest.raises(UsageError, match="leave out the `lr` or `head_lr` of 0"):
        FinetuneConfig(**zeros)
    FinetuneConfig(lr_find="start", lr=0)  # the head's alone


def test_without_an_image_to_train_or_to_validate_on_nothing_begins(probe):
    without_val = probe.manifest.select(probe.manifest.indices("train"))
    with pytest.raises(DataError, match="train and the validation split"):
        ready(probe._replace(manifest=without_val))

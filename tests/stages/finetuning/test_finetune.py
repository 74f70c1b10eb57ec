"""Stage 3 on a real pretrained network, at an image size that is quick."""

import copy
import gc
import json
import os
import signal
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import stages.finetuning.finetune
import stages.finetuning.image_batches
import stages.finetuning.setup
from cache.errors import CutonceError, UsageError
from pipeline.cli.app import main
from stages.config.finetune import FinetuneConfig
from stages.extraction.extractor import build_extractor
from stages.finetuning.baselines import baseline, random_head
from stages.finetuning.finetune import finetune
from stages.finetuning.image_batches import AugmentedImages
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.transfer_model import build_transfer_model
from tests.photographs import make_folder
from tests.ready_processes import start, torchrun

QUICK = FinetuneConfig(epochs=2, lr=1e-3, head_lr=1e-3, finetune_batch_size=8, num_workers=0)


def tuned(probe, **changed):
    return finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.ignorant(), replace(QUICK, **changed), 0))


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_frozen_layers_keep_every_bit_and_trained_ones_change(probe, batchnorm):
    before = copy.deepcopy(probe.extractor.backbone.module.state_dict())
    result = tuned(probe, unfreeze="blocks.5", batchnorm=batchnorm)
    assert result.fit.best.epoch > 0
    assert set(result.blocks) == {"head", "conv_head", "blocks.6", "blocks.5"}
    top = result.upper.model.top.state_dict()
    changed = {name for name, value in top.items() if not torch.equal(value.cpu(), before[name])}
    weights = {name for name in top if name.endswith(".weight")}
    statistics = {name for name in top if name.endswith("running_mean")}
    assert weights
    assert weights <= changed
    assert statistics <= changed if batchnorm == "train" else not statistics & changed
    after = probe.extractor.backbone.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the frozen network was touched"


def test_fine_tuning_learns_and_runs_the_trunk_no_more_than_it_must(probe):
    result = tuned(probe)
    assert result.fit.best.val_score > 0.8 > result.fit.history[0].val_score
    train, val = len(probe.manifest.indices("train")), len(probe.manifest.indices("val"))
    size = QUICK.finetune_batch_size
    # every image of an epoch once through the frozen trunk, validation images once for all epochs
    assert result.backbone_forwards == QUICK.epochs * (train // size) * size + val


def test_where_all_of_a_network_trains_validation_goes_through_it_in_every_epoch(probe):
    result = tuned(probe, unfreeze="all")
    train, val = len(probe.manifest.indices("train")), len(probe.manifest.indices("val"))
    size = QUICK.finetune_batch_size
    assert result.backbone_forwards == QUICK.epochs * (train // size) * size + (1 + QUICK.epochs) * val


def test_the_kept_epoch_is_what_the_network_answers_with(probe):
    result = finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.head, QUICK, 0))
    val = probe.manifest.select(probe.manifest.indices("val"))
    right = (predict_proba(probe.extractor, result.upper, val).argmax(axis=1) == val.targets).mean()
    assert right == pytest.approx(result.fit.best.val_score)
    assert result.fit.best.val_score == max(epoch.val_score for epoch in result.fit.history)


def test_the_same_seed_trains_the_same_network_whatever_loads_the_images(probe):
    extractor = replace(probe.extractor, options=replace(probe.extractor.options, augment="medium"))
    options = replace(QUICK, epochs=1)
    losses = [
        [
            epoch.val_loss
            for epoch in finetune(FinetuneProblem(extractor, probe.manifest, probe.head, changed, seed)).fit.history
        ]
        for changed, seed in ((options, 1), (replace(options, num_workers=2), 1), (options, 2))
    ]
    assert losses[0] == losses[1]
    assert losses[0][1] != losses[2][1]


class Circle:
    """What is destroyed by a search for garbage alone, and leaves word in which process that was."""

    def __init__(self, words):
        self.myself, self.words = self, words

    def __del__(self):
        self.words.open("a").write(f"{os.getpid()}\n")


def test_loading_processes_destroy_nothing_that_they_inherit(probe, tmp_path, monkeypatch):
    # a GPU augments images itself
    on_cpu = probe._replace(extractor=build_extractor(replace(probe.extractor.options, device="cpu")))
    kept = [Circle(tmp_path / "kept")]
    Circle(tmp_path / "garbage")
    render = AugmentedImages.__getitem__

    def after_a_search(images, position):
        kept.clear()
        gc.collect()
        (tmp_path / "loaded").write_text((tmp_path / "garbage").read_text())
        return render(images, position)

    monkeypatch.setattr(AugmentedImages, "__getitem__", after_a_search)
    monkeypatch.setattr("tests.conftest.KEEP_INHERITED", False)
    gc.disable()  # no search but those that are asked for
    try:
        tuned(on_cpu, num_workers=1, epochs=1)
    finally:
        gc.enable()
    assert (tmp_path / "loaded").read_text() == f"{os.getpid()}\n"  # it was destroyed before there was another process
    assert not (tmp_path / "kept").exists()


def test_validation_outputs_too_large_to_keep_are_computed_again(probe, monkeypatch):
    kept = finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.head, QUICK, 0))
    monkeypatch.setattr(stages.finetuning.image_batches, "VALIDATION_BYTES", 1000)
    computed = finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.head, QUICK, 0))
    assert computed.backbone_forwards == kept.backbone_forwards + QUICK.epochs * len(probe.manifest.indices("val"))
    assert [epoch.val_loss for epoch in computed.fit.history] == [epoch.val_loss for epoch in kept.fit.history]


def test_rates_are_those_that_it_trained_with_where_losses_make_them_fall(probe):
    falling = {"schedule": "plateau", "plateau_patience": 1, "decay_rate": 0.1, "warmup": 0.0, "epochs": 6}
    result = tuned(probe, unfreeze="1", opt="sgd", lr=3e-2, head_lr=0.3, **falling)
    of_head = result.rates[:, 0]
    assert len(of_head) == 6 * result.steps_per_epoch
    assert of_head[-1] < of_head[0] / 5
    starts = of_head[result.steps_per_epoch :: result.steps_per_epoch]
    assert starts.tolist() == [epoch.lrs["head"] for epoch in result.fit.history[1:-1]]


def test_lower_blocks_have_lower_rates(probe):
    result = tuned(probe, layer_decay=0.1, schedule="constant", warmup=0.0, head_lr=5e-3, epochs=1)
    assert result.blocks == ["head", "conv_head", "blocks.6", "blocks.5"]
    assert np.allclose(result.rates, [5e-3, 1e-3, 1e-4, 1e-5])
    assert result.fit.history[-1].lrs == pytest.approx(dict(zip(result.blocks, result.rates[-1], strict=True)))


def test_gradual_unfreezing_trains_block_by_block_from_the_head_down(probe, monkeypatch):
    before = copy.deepcopy(probe.extractor.backbone.module.state_dict())
    uppers = []
    monkeypatch.setattr(
        stages.finetuning.setup,
        "build_transfer_model",
        lambda *given: uppers.append(build_transfer_model(*given)) or uppers[-1],
    )
    changed_by = {}

    def look(epoch):
        top = uppers[0].model.top.state_dict()
        changed_by[epoch.epoch] = {name for name, value in top.items() if not torch.equal(value.cpu(), before[name])}

    options = replace(QUICK, epochs=3, unfreeze="2", unfreeze_every=1, weight_decay=0.1)
    finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.ignorant(), options, 0), on_epoch=look)
    assert changed_by[0] == changed_by[1] == set()  # the head alone
    assert {name.split(".")[0] for name in changed_by[2]} == {"conv_head", "bn2"}
    assert any(name.startswith("blocks.6") for name in changed_by[3])


def test_gradual_unfreezing_that_never_gets_to_a_block_is_refused(probe):
    with pytest.raises(UsageError, match=r"`unfreeze_every` 2.*epoch 7"):
        tuned(probe, unfreeze_every=2, epochs=6)


def test_a_range_test_gives_the_rate_and_leaves_the_training_as_it_was(probe):
    given = tuned(probe, unfreeze="1", epochs=1)
    with_range_test = tuned(probe, unfreeze="1", epochs=1, lr_find="start")
    (test,) = with_range_test.range_tests
    assert test.suggestion is not None
    assert with_range_test.rates.max() == pytest.approx(test.suggestion, rel=0.2)
    repeated = tuned(probe, unfreeze="1", epochs=1, lr=1e-3 * test.suggestion / 1e-3, head_lr=test.suggestion)
    assert [epoch.val_loss for epoch in repeated.fit.history] == [
        epoch.val_loss for epoch in with_range_test.fit.history
    ]
    assert [epoch.val_loss for epoch in given.fit.history] != [epoch.val_loss for epoch in with_range_test.fit.history]


def test_the_arithmetic_that_a_trial_finds_quicker_is_trained_in(probe, monkeypatch):
    tried = []
    monkeypatch.setattr(stages.finetuning.finetune, "benchmark_autocast", lambda run: tried.append(run) or "bf16")
    found, asked = tuned(probe, amp_dtype="auto", epochs=1), tuned(probe, amp_dtype="bf16", epochs=1)
    assert [run.config.amp_dtype for run in tried] == ["none"]
    assert found.autocast == asked.autocast == "bf16"
    losses = [[epoch.train_loss for epoch in done.fit.history] for done in (found, asked)]
    assert losses[0] == losses[1]


def test_each_unfrozen_block_can_have_a_range_test_of_its_own(probe):
    result = tuned(probe, unfreeze="1", unfreeze_every=1, lr_find="each", epochs=2)
    assert [test.block for test in result.range_tests] == ["head", "conv_head"]


@pytest.fixture(scope="module")
def from_maps(probe, tmp_path_factory):
    """Train from maps that are cached once, so that each option costs a second."""
    options = replace(probe.extractor.options, augment="none", cache=tmp_path_factory.mktemp("maps"))
    extractor = replace(probe.extractor, options=options)

    @cache
    def train(**changed):
        options = replace(QUICK, unfreeze="blocks.5", from_cache=True, **changed)
        history = finetune(FinetuneProblem(extractor, probe.manifest, probe.ignorant(), options, 0)).fit.history
        return [epoch.val_loss for epoch in history]

    return train


@pytest.mark.parametrize(
    "changed",
    [
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"label_smoothing": 0.2},
        {"l1": 1e-4},
        {"model_ema_decay": 0.9},
        {"clip_grad": 0.01},
        {"grad_accum_steps": 2},
        {"opt": "sgd"},
        {"opt": "lamb"},
        {"schedule": "triangular2", "cycle_epochs": 1},
        {"schedule": "restarts", "cycle_epochs": 1},
        {"weight_decay": 0.5},
        {"finetune_dropout": 0.5},
        {"drop_path": 0.3},
        {"amp_dtype": "none" if torch.cuda.is_available() else "bf16"},  # on a GPU it is bf16 by itself
        {"batchnorm": "train"},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_every_option_changes_what_is_trained_and_it_still_learns(from_maps, changed):
    losses = from_maps(**changed)
    assert losses[1:] != from_maps()[1:]
    assert losses[-1] < losses[0]


def test_terms_of_the_loss_are_kept_apart(probe):
    result = tuned(probe, unfreeze="1", l1=1e-4, epochs=1)
    epoch = result.fit.history[-1]
    assert set(epoch.terms) == {"main", "l1"}
    assert epoch.train_loss == pytest.approx(sum(epoch.terms.values()))


def test_baselines_share_the_schedule_and_start_from_nothing(probe):
    scratch, frozen = (
        baseline(replace(QUICK, init_head="logistic", lr=1e-4, layer_decay=0.5), which)
        for which in ("scratch", "uncached")
    )
    assert scratch.lr == frozen.head_lr == QUICK.baseline_lr > 1e-4  # they begin with nothing
    assert (scratch.unfreeze, scratch.reinit, scratch.init_head, scratch.epochs) == ("all", "all", "new", QUICK.epochs)
    mixed = baseline(replace(QUICK, cutmix=1.0, drop_path=0.2), "uncached")
    assert (mixed.cutmix, mixed.drop_path) == (1.0, None)  # images are mixed; no branch of a block trains
    head = random_head(probe.extractor, 3, seed=0)
    before = copy.deepcopy(probe.extractor.backbone.module.state_dict())

    frozen_result = finetune(FinetuneProblem(probe.extractor, probe.manifest, head, replace(frozen, head_lr=1e-2), 0))
    assert frozen_result.blocks == ["head"]
    assert frozen_result.trainable_parameters == 3 * 1280 + 3
    assert frozen_result.fit.best.val_score > 0.8
    train = len(probe.manifest.indices("train")) // 8 * 8
    assert frozen_result.backbone_forwards == QUICK.epochs * train + len(probe.manifest.indices("val"))

    mixed_result = finetune(FinetuneProblem(probe.extractor, probe.manifest, head, replace(mixed, epochs=1), 0))
    plain = finetune(FinetuneProblem(probe.extractor, probe.manifest, head, replace(mixed, cutmix=0.0, epochs=1), 0))
    assert mixed_result.fit.history[1].train_loss != plain.fit.history[1].train_loss

    scratch_result = finetune(FinetuneProblem(probe.extractor, probe.manifest, head, replace(scratch, epochs=1), 0))
    top = scratch_result.upper.model.top.state_dict()
    kernels = [name for name, value in top.items() if value.ndim == 4]
    assert not any(torch.equal(top[name].cpu(), before[name]) for name in kernels)
    assert scratch_result.trainable_parameters > 3_000_000


def test_a_loss_that_is_lost_says_where_and_what_to_do(probe, tmp_path):
    with pytest.raises(CutonceError, match=r"step \d+ of epoch 1.*try a tenth"):
        finetune(
            FinetuneProblem(
                probe.extractor,
                probe.manifest,
                probe.ignorant(),
                replace(QUICK, lr=1e9, head_lr=1e9, opt="momentum", warmup=0.0),
                0,
            ),
            tmp_path,
        )


def test_the_checkpoint_of_another_training_is_refused_with_what_differs(probe, tmp_path):
    def stop(epoch):
        if epoch.epoch == 1:
            raise KeyboardInterrupt

    options = replace(QUICK, unfreeze="1", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        finetune(FinetuneProblem(probe.extractor, probe.manifest, probe.head, options, 0), tmp_path, on_epoch=stop)
    with pytest.raises(UsageError, match=r"epochs was 3 and is 4.*lr was 0.001 and is 0.002"):
        finetune(
            FinetuneProblem(probe.extractor, probe.manifest, probe.head, replace(options, epochs=4, lr=2e-3), 0),
            tmp_path,
        )
    result = finetune(
        FinetuneProblem(probe.extractor, probe.manifest, probe.head, replace(options, num_workers=1), 0), tmp_path
    )
    assert result.fit.resumed_from == 1


# -- as a person runs it ----------------------------------------------------------------------------------------------


def command(folder, cache, *more):
    return [
        *("finetune", "--data", str(folder), "--image-size", "64", "--epochs", "2"),
        *("--num-workers", "0", "--finetune-batch-size", "8", "--cache", str(cache), "--c-values", "0.01"),
        *more,
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of photographs and a cache that has their features."""
    root = tmp_path_factory.mktemp("finetune")
    folder = make_folder(root / "own", per_class=12)
    assert main(["extract", "--data", str(folder), "--image-size", "64", "--cache", str(root / "cache")]) == 0
    return folder, root / "cache"


def probabilities_of(run, name):
    return np.load(run / "seed-0" / name / "predictions.npz")["probabilities"]


def test_a_fine_tuning_killed_again_and_again_ends_with_the_same_answers(small, tmp_path, capsys):
    """kill -9 at several steps in the middle of epochs, then the same command: bit for bit what nobody disturbed.

    On the CPU: gradients that a GPU computes differ by rounding.
    """
    noisy = (
        "--device",
        "cpu",
        "--augment",
        "medium",
        "--finetune-dropout",
        "0.3",
        "--model-ema-decay",
        "0.9",
        "--checkpoint-minutes",
        "0",
    )
    tuning = [*command(*small, *noisy), "--out"]
    assert main([*tuning, str(tmp_path / "whole")]) == 0

    checkpoint = tmp_path / "killed" / "seed-0" / "finetune-top-3" / "checkpoint.pt"
    kills = 0
    for _ in range(2):
        process = start("-m", "pipeline", *tuning, tmp_path / "killed")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.finish()
    assert kills == 2, "the process ended before it was killed"
    capsys.readouterr()
    assert main([*tuning, str(tmp_path / "killed")]) == 0
    assert "already trained" in capsys.readouterr().out  # the head
    probabilities = [probabilities_of(tmp_path / name, "finetune-top-3") for name in ("whole", "killed")]
    assert np.array_equal(*probabilities)


def test_two_processes_train_what_one_trains(small, tmp_path):
    """torchrun with gloo: the same loss curve as one process with the same batches."""
    in_fp32 = command(*small, "--precision", "fp32", "--amp-dtype", "none")  # 16 bits round halves of a batch otherwise
    extracted = ["extract", "--data", small[0], "--image-size", 64, "--cache", small[1], "--precision", "fp32"]
    assert main([str(word) for word in extracted]) == 0
    assert main([*in_fp32, "--out", str(tmp_path / "alone")]) == 0
    together = torchrun(2, "-m", "pipeline", *in_fp32, "--out", tmp_path / "together")
    assert together.returncode == 0, together.stderr
    histories = [
        json.loads((tmp_path / name / "seed-0" / "finetune-top-3" / "result.json").read_text())["history"]
        for name in ("alone", "together")
    ]
    # a GPU trains in TF32, and the first steps of Adam make much of how small gradients are rounded
    of_losses, of_probabilities = (0.05, 0.05) if torch.cuda.is_available() else (2e-4, 2e-3)
    for quantity in ("val_loss", "train_loss"):
        curves = [[epoch[quantity] for epoch in history[1:]] for history in histories]
        assert np.allclose(*curves, rtol=of_losses)
    probabilities = [probabilities_of(tmp_path / name, "finetune-top-3") for name in ("alone", "together")]
    assert np.allclose(*probabilities, atol=of_probabilities)


def test_what_was_trained_predicts_what_it_was_tested_with(small, tmp_path, capsys):
    """Lists of layers, layers drawn anew and test-time augmentation are all there when the model is opened again."""
    folder, cache = small
    options = ("--unfreeze", "blocks.5,conv_head", "--reinit", "conv_head,", "--tta", "flip", "--baselines", "uncached")
    assert main([*command(folder, cache, *options), "--out", str(tmp_path / "run")]) == 0
    root = tmp_path / "run" / "seed-0"
    assert {path.name for path in root.iterdir() if path.is_dir()} == {
        "linear-logistic",
        "finetune-blocks.5+conv_head-new-conv_head+-flip",
        "uncached-head",
    }
    for name in ("finetune-blocks.5+conv_head-new-conv_head+-flip", "uncached-head"):
        with np.load(root / name / "predictions.npz") as tested:
            locations, expected = tested["locations"].tolist(), tested["probabilities"]
        out = tmp_path / f"{name}.csv"
        predicting = ["predict", str(tmp_path / "run"), *locations, "--method", name, "--out", str(out)]
        assert main(predicting) == 0
        probabilities = np.loadtxt(out, delimiter=",", skiprows=1, usecols=(2, 3, 4))
        assert np.allclose(probabilities, expected, atol=1e-5)
        assert (root / name / "contact-sheet.svg").exists()
        assert (root / name / "rates.png").exists()
        assert (root / name / "rates.svg").exists()
        assert not (root / name / "checkpoint.pt").exists()
    result = json.loads((root / "finetune-blocks.5+conv_head-new-conv_head+-flip" / "result.json").read_text())
    assert result["settings"]["reinitialised"] == ["conv_head"]
    assert result["settings"]["test-time augmentation"] == "flip"

    # the same weights tested in another way are not trained again
    capsys.readouterr()
    assert main([*command(folder, cache, *options[:4]), "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "the weights of finetune-blocks.5+conv_head-new-conv_head+-flip, tested with none" in output
    assert "epoch" not in output
    plain = json.loads((root / "finetune-blocks.5+conv_head-new-conv_head+" / "result.json").read_text())
    assert "test-time augmentation" not in plain["settings"]
    assert plain["history"] == result["history"]
    assert plain["test"]["log_loss"] != result["test"]["log_loss"]

"""Stage 3 on a real pretrained network, at an image size that is quick."""

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import stages.finetune
from cache.errors import UsageError
from stages.data import load_manifest
from stages.extract import extract
from stages.extractor import prepare, read_features
from stages.finetune import finetune, image_probabilities, join
from stages.head import Rows, head_probabilities, train_head
from stages.options import Data, Features, Finetune, Head
from tests.photographs import make_folder

QUICK = Finetune(epochs=2, rate=1e-3, finetune_head_rate=1e-3, finetune_batch_size=8, loader_workers=0)


@pytest.fixture(scope="module")
def linear_probe(photographs, tmp_path_factory):
    """Extractor, manifest, cached features and a logistic head of the shared photographs."""
    manifest = load_manifest(Data(str(photographs)))
    cache = tmp_path_factory.mktemp("probe") / "cache"
    extractor = prepare(Features(image_size=64, cache=cache, dtype="float32"))
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    train, val = (
        Rows(features[manifest.indices(split)], manifest.labels[manifest.indices(split)]) for split in ("train", "val")
    )
    head = train_head("logistic", Head(regularisation=(1e-2, 1e-1)), train, val, 3, 0, extractor.device)
    return extractor, manifest, features, head


@pytest.mark.parametrize("unfreeze", ["1", "3", "blocks.4", "all"])
def test_before_the_first_step_the_network_answers_what_stage_two_answered(linear_probe, unfreeze):
    extractor, manifest, features, head = linear_probe
    upper = join(extractor, head.module_without_val, unfreeze)
    from_images = image_probabilities(extractor, upper, manifest)
    assert np.allclose(from_images, head_probabilities(head.module_without_val, features), atol=1e-4)


def ignorant(head):
    """The head with noise in it, so that fine-tuning has all to learn and improves on epoch 0."""
    blank = copy.deepcopy(head)
    with torch.no_grad():
        blank.module_without_val.output.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
        blank.module_without_val.output.bias.zero_()
    return blank


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_frozen_layers_keep_every_bit_and_trained_ones_change(linear_probe, batchnorm):
    extractor, manifest, _, head = linear_probe
    before = copy.deepcopy(extractor.backbone.module.state_dict())
    options = replace(QUICK, unfreeze="blocks.5", batchnorm=batchnorm)
    tuned = finetune(extractor, ignorant(head), options, manifest, seed=0)
    assert tuned.fit.best.epoch > 0
    assert {name.split(".")[0] for name in tuned.upper.trained} == {"blocks", "conv_head", "bn2"}
    top = tuned.upper.model.get_submodule("top").state_dict()
    changed = {name for name, value in top.items() if not torch.equal(value, before[name])}
    weights = {name for name in top if name.endswith(".weight")}
    statistics = {name for name in top if name.endswith("running_mean")}
    assert weights
    assert weights <= changed
    assert statistics <= changed if batchnorm == "train" else not statistics & changed
    after = extractor.backbone.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the frozen network was touched"


def test_fine_tuning_learns_and_runs_the_trunk_no_more_than_it_must(linear_probe):
    extractor, manifest, _, head = linear_probe
    epochs = []
    tuned = finetune(extractor, ignorant(head), QUICK, manifest, seed=0, on_epoch=epochs.append)
    assert tuned.fit.best.val_accuracy > 0.8 > epochs[0].val_accuracy
    train, val = len(manifest.indices("train")), len(manifest.indices("val"))
    size = QUICK.finetune_batch_size
    # every image of an epoch once through the frozen trunk, validation images once for all epochs
    assert tuned.backbone_forwards == QUICK.epochs * (train // size) * size + val


def test_the_kept_epoch_is_what_the_network_answers_with(linear_probe):
    extractor, manifest, _, head = linear_probe
    tuned = finetune(extractor, head, QUICK, manifest, seed=0)
    val = manifest.select(manifest.indices("val"))
    right = (image_probabilities(extractor, tuned.upper, val).argmax(axis=1) == val.labels).mean()
    assert right == pytest.approx(tuned.fit.best.val_accuracy)
    assert tuned.fit.best.val_accuracy == max(epoch.val_accuracy for epoch in tuned.fit.history)


def test_the_same_seed_trains_the_same_network_whatever_loads_the_images(linear_probe):
    extractor, manifest, _, head = linear_probe
    extractor = replace(extractor, options=replace(extractor.options, augment="medium"))
    options = replace(QUICK, epochs=1)
    losses = [
        [epoch.val_loss for epoch in finetune(extractor, head, changed, manifest, seed).fit.history]
        for changed, seed in (
            (options, 1),
            (replace(options, loader_workers=2), 1),
            (options, 2),
        )
    ]
    assert losses[0] == losses[1]
    assert losses[0][1] != losses[2][1]


def test_validation_outputs_too_large_to_keep_are_computed_again(linear_probe, monkeypatch):
    extractor, manifest, _, head = linear_probe
    kept = finetune(extractor, head, QUICK, manifest, seed=0)
    monkeypatch.setattr(stages.finetune, "VALIDATION_BYTES", 1000)
    computed = finetune(extractor, head, QUICK, manifest, seed=0)
    assert computed.backbone_forwards == kept.backbone_forwards + QUICK.epochs * len(manifest.indices("val"))
    assert [epoch.val_loss for epoch in computed.fit.history] == [epoch.val_loss for epoch in kept.fit.history]


@pytest.mark.parametrize(("cut", "unfreeze"), [("blocks.4", "blocks.5"), ("blocks.4", "1")])
def test_unfreezing_at_or_above_the_cut_is_refused(photographs, tmp_path, cut, unfreeze):
    extractor = prepare(Features(image_size=64, cache=tmp_path, cut=cut))
    with pytest.raises(UsageError, match="at or above the cut"):
        join(extractor, torch.nn.Linear(112, 3), unfreeze)


def test_a_killed_fine_tuning_goes_on_to_the_same_result(tmp_path):
    """kill -9 in the middle of training, then the same command: the history equals an undisturbed one."""
    folder = make_folder(tmp_path / "own", per_class=12)
    command = [
        *(sys.executable, "-m", "pipeline", "run", "--data", str(folder), "--image-size", "64", "--epochs", "3"),
        *(
            "--head",
            "logistic",
            "--loader-workers",
            "0",
            "--finetune-batch-size",
            "8",
            "--cache",
            str(tmp_path / "cache"),
        ),
    ]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)

    checkpoint = tmp_path / "killed" / "seed-0" / "finetune-top-3" / "checkpoint.pt"
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists(), "the process ended before it was killed"

    again = subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True, text=True)
    assert "already trained" in again.stdout  # the head
    predictions = [
        np.load(tmp_path / name / "seed-0" / "finetune-top-3" / "predictions.npz") for name in ("whole", "killed")
    ]
    assert np.array_equal(predictions[0]["probabilities"], predictions[1]["probabilities"])

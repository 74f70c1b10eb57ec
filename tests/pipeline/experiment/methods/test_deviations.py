"""How far answers move in another arithmetic: what is measured, on what, and what is said of it."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache import FeatureCache
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods import deviations
from pipeline.experiment.methods.deviations import IMAGES, deviations_of
from pipeline.experiment.methods.finetune_methods import run_finetune
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.methods.mixture import run_mixture
from pipeline.experiment.models.model_card import Deviation, read_recipe
from pipeline.experiment.models.model_store import write_card
from pipeline.experiment.prediction.classify_images import format_deviations, predict_images
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor, with_precision
from stages.extraction.read_features import read_features
from stages.extraction.stand_in import stand_in
from stages.network.graph.trunk import FrozenTrunk
from stages.network.heads.serialization import load_head
from tests.photographs import make_folder
from tests.pipeline.experiment.conftest import OPTIONS

FP32, BF16 = ("fp32", "pixels/2"), ("bf16-folded", "pixels/2")


@pytest.fixture(scope="module")
def manifest(photographs):
    return load_manifest(DataConfig(str(photographs)))


def experiment_on(tmp_path, manifest, *, fill=True, opens_images=False, **options):
    extractor = build_extractor(
        FeatureConfig(
            **{"image_size": 64, "device": "cpu", "cache": tmp_path / "cache", "extract_batch_size": 16, **options}
        )
    )
    if fill:
        extract(extractor, manifest)
    return Experiment(extractor, manifest, 0, tmp_path / "run" / "seed-0", opens_images=opens_images)


def measured(experiment, name="linear-ridge"):
    return read_recipe(experiment.directory / name).deviations


def expected(experiment, other):
    """The largest difference of logits of the saved head, on rows of two caches, and how many classes change."""
    train = experiment.split("train")
    sample = train.select(sorted(range(len(train)), key=lambda place: train.keys[place])[:IMAGES])
    head, _ = load_head(experiment.directory / "linear-ridge" / "head.safetensors")
    logits = [
        head(torch.from_numpy(read_features(extractor, sample)).float()) for extractor in (experiment.extractor, other)
    ]
    changed = int((logits[0].argmax(1) != logits[1].argmax(1)).sum())
    return (logits[0] - logits[1]).abs().max().item(), changed


def test_bf16_features_are_held_against_fp32_on_training_images(manifest, tmp_path):
    experiment = experiment_on(tmp_path, manifest, precision="bf16")
    run_heads(experiment, ["ridge"], OPTIONS)
    [moved] = measured(experiment)
    assert (moved.trained, moved.computed, moved.images) == (BF16, FP32, IMAGES)
    other = with_precision(experiment.extractor, "fp32")
    assert not other.taps[0].cache.path.exists(), "what is measured is not cached"
    extract(other, manifest)
    logits, changed = expected(experiment, other)
    assert moved.logits == pytest.approx(logits, rel=1e-5)
    assert moved.logits > 0
    assert moved.changed == changed
    assert 0 <= moved.predicted < 1


def test_where_nothing_differs_no_image_is_opened_unless_the_command_does(manifest, tmp_path, monkeypatch):
    experiment = experiment_on(tmp_path, manifest)
    with monkeypatch.context() as patched:
        patched.setattr(FrozenTrunk, "forward", lambda *_: pytest.fail("a backbone ran"))
        run_heads(experiment, ["ridge"], OPTIONS)
    assert measured(experiment) == []
    run_heads(replace(experiment, directory=tmp_path / "opened", opens_images=True), ["ridge"], OPTIONS)
    [same] = measured(replace(experiment, directory=tmp_path / "opened"))
    assert (same.trained, same.computed, same.logits, same.changed) == (FP32, FP32, 0.0, 0)
    assert not same.is_worth_saying


def test_rows_that_are_computed_otherwise_today_are_told(manifest, tmp_path):
    experiment = experiment_on(tmp_path, manifest, fill=False, opens_images=True)
    cache = experiment.extractor.taps[0].cache
    computed = experiment_on(tmp_path / "elsewhere", manifest).extractor
    rows = read_features(computed, manifest)
    with FeatureCache(cache.root, cache.spec).writer() as writer:  # as an older library would have decoded
        writer.append(manifest.keys, rows * np.float16(1.25), seconds=1.0)
    run_heads(experiment, ["ridge"], OPTIONS)
    [moved] = measured(experiment)
    assert moved.trained == moved.computed == FP32
    assert moved.logits == pytest.approx(expected(experiment, computed)[0], rel=1e-5)
    assert moved.is_worth_saying


def test_on_features_of_another_machine_both_its_precision_and_this_ones_are_measured(manifest, tmp_path):
    experiment_on(tmp_path, manifest, precision="bf16")
    laptop = experiment_on(tmp_path, manifest, fill=False, opens_images=True)
    taken = stand_in(laptop.extractor, manifest.keys)
    assert taken.stands_in
    run_heads(replace(laptop, extractor=taken), ["ridge"], OPTIONS)
    same, moved = measured(laptop)
    assert (same.trained, same.computed, same.logits) == (BF16, BF16, 0.0)
    assert (moved.trained, moved.computed) == (BF16, FP32)
    assert moved.logits > 0


def test_the_images_are_chosen_by_their_keys(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(deviations, "IMAGES", 3)
    experiment = experiment_on(tmp_path, manifest, precision="bf16")
    run_heads(experiment, ["ridge"], OPTIONS)
    head, _ = load_head(experiment.directory / "linear-ridge" / "head.safetensors")
    order = np.random.default_rng(0).permutation(len(manifest)).tolist()
    shuffled = replace(experiment, manifest=manifest.select(order))
    assert deviations_of(shuffled, head, manifest.task) == measured(experiment)


def test_without_the_images_it_is_said_and_nothing_else_ends(tmp_path, caplog):
    folder = make_folder(tmp_path / "images", per_class=12)
    manifest = load_manifest(DataConfig(str(folder)))
    experiment = experiment_on(tmp_path, manifest, precision="bf16")
    shutil.rmtree(folder)
    with caplog.at_level(logging.INFO, "cutonce"):
        run_heads(experiment, ["ridge", "ncm"], OPTIONS)
    assert sum("the training images cannot be read" in message for message in caplog.messages) == 1
    assert measured(experiment) == []


def test_a_fine_tuned_network_is_held_against_one_whose_frozen_part_computes_in_fp32(manifest, tmp_path):
    experiment = experiment_on(tmp_path, manifest, precision="bf16")
    options = FinetuneConfig(unfreeze="1", epochs=1, init_head="ridge", num_workers=0)
    run_finetune(experiment, options, OPTIONS)
    [moved] = measured(experiment, "finetune-top-1")
    assert (moved.trained, moved.computed, moved.images) == (BF16, FP32, IMAGES)
    assert 0 < moved.logits < moved.scale
    [sentence] = format_deviations(experiment.directory / "finetune-top-1", "fp32")
    assert sentence == moved.words
    run_mixture(experiment, OPTIONS)


def test_what_predict_says(manifest, tmp_path, photographs):
    experiment = experiment_on(tmp_path, manifest, precision="bf16", opens_images=True)
    run_heads(experiment, ["ridge"], OPTIONS)
    model = experiment.directory / "linear-ridge"
    assert format_deviations(model) == [], "in bf16 nothing moves"
    [said] = format_deviations(model, "fp32")
    assert said.startswith("trained on bf16-folded features; of 32 training images, computed in fp32 where it was")
    assert f" by {measured(experiment)[1].logits:.2g} and probabilities by" in said
    [unknown] = format_deviations(model, "fp16")
    assert unknown == "it was trained in bf16, and what fp16 makes of its answers was not measured"
    images = [photographs / "sea"]
    answers = {
        precision: np.stack([found.activated for found in predict_images(model, images, "cpu", precision=precision)[0]])
        for precision in ("bf16", "fp32", None)
    }
    assert np.array_equal(answers["bf16"], answers[None])
    assert not np.array_equal(answers["bf16"], answers["fp32"])


def test_words_name_decoders_where_they_differ_and_no_class_where_numbers_are_predicted():
    moved = Deviation(("bf16-folded", "pixels+nvjpeg/2"), ("fp32", "pixels/2"), 32, 0.0312, 12.5, 0.02, None)
    assert moved.words == (
        "trained on bf16-folded (pixels+nvjpeg/2) features; of 32 training images, computed in fp32 (pixels/2) where "
        "it was trained, values by 0.02 at most apart"
    )
    of_classes = replace(moved, changed=2)
    assert of_classes.words.endswith(
        ", logits (up to 12) by 0.031 and probabilities by 0.02 at most apart, and 2 predicted otherwise"
    )
    assert replace(of_classes, logits=None).words.endswith(
        "trained, probabilities by 0.02 at most apart, and 2 predicted otherwise"
    )


def test_a_card_keeps_it_and_one_without_is_read(manifest, tmp_path):
    experiment = experiment_on(tmp_path, manifest)
    run_heads(experiment, ["ridge"], OPTIONS)
    directory = experiment.directory / "linear-ridge"
    moved = Deviation(("bf16-folded", "pixels/2"), ("fp32", "pixels/2"), 32, None, 3.0, 0.25, 1)
    card = read_recipe(directory)
    write_card(directory, replace(card, deviations=[moved]))
    assert read_recipe(directory).deviations == [moved]
    text = (directory / "model.json").read_text()
    assert '"deviations"' in text
    (directory / "model.json").write_text(text.replace('"deviations"', '"another"'))
    with pytest.raises(Exception, match="made by another version"):
        read_recipe(directory)


def test_on_a_gpu_what_a_laptop_computes_is_measured_too(pretended_cuda, photographs, tmp_path):
    manifest = load_manifest(DataConfig(str(photographs)))
    experiment = experiment_on(tmp_path, manifest, device="cuda", opens_images=True)
    run_heads(experiment, ["ridge"], OPTIONS)
    on_gpu = ("bf16-folded", "pixels+nvjpeg/2")
    assert [(moved.trained, moved.computed) for moved in measured(experiment)] == [
        (on_gpu, BF16),
        (on_gpu, on_gpu),
        (on_gpu, FP32),
    ]
    laptop = stand_in(build_extractor(replace(experiment.extractor.options, device="cpu")), manifest.keys)
    assert laptop.fingerprint == experiment.extractor.fingerprint
    assert "precision bf16-folded, here fp32; decoder pixels+nvjpeg/2, here pixels/2" in laptop.stands_in

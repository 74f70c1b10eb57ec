"""Fine-tuning of images that are given as they are."""

import copy
import gc
import logging
import multiprocessing
import pickle
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.library import finetuning
from pipeline.library.finetuning import finetune, labelled_manifest
from pipeline.library.images import all_images
from stages.data.targets.arrays import read_arrays
from tests.photographs import COLOURS, photograph
from tests.pipeline.library.test_functions import Pictures

QUICK = {"image_size": 32, "unfreeze": "1", "epochs": 2, "finetune_batch_size": 8, "init_head": "ncm", "lr": 1e-3}
LABELS = list(COLOURS) * 8


@pytest.fixture(scope="module")
def pictures():
    return [np.asarray(photograph(colour, seed, 40)) for seed in range(8) for colour in COLOURS.values()]


@pytest.fixture(scope="module")
def tuned(pictures):
    return finetune(pictures, LABELS, **QUICK)


def test_a_network_learns_from_arrays_and_answers_for_arrays_and_files(pictures, tuned, tmp_path):
    assert tuned.classes_.tolist() == sorted(COLOURS)
    assert [epoch.epoch for epoch in tuned.history] == [0, 1, 2]
    assert tuned.best in tuned.history
    assert (tuned.predict(pictures) == LABELS).mean() > 0.8
    Image.fromarray(pictures[1]).save(tmp_path / "new.png")
    file_probabilities, array_probabilities = (
        tuned.predict_proba([tmp_path / "new.png"]),
        tuned.predict_proba(pictures[1:2]),
    )
    assert np.array_equal(file_probabilities, array_probabilities)
    assert array_probabilities.shape == (1, 3)
    assert tuned.predict([]).tolist() == []


def test_the_module_is_the_whole_network(pictures, tuned):
    images = torch.from_numpy(np.stack(pictures[:4])).permute(0, 3, 1, 2)
    inputs = tuned.preprocess(images)
    assert inputs.shape == (4, 3, 32, 32)
    probabilities = tuned.module(inputs).softmax(dim=1).cpu().numpy()
    assert np.allclose(probabilities, tuned.predict_proba(pictures[:4]), atol=1e-5)
    names = tuned.module.state_dict()
    assert any(name.startswith("frozen.") for name in names)
    assert any(name.startswith("trained.head.") for name in names)
    assert not any(parameter.requires_grad for parameter in tuned.module.parameters())


@pytest.mark.parametrize("form", ["dataset", "frame", "files"])
def test_every_form_of_the_same_images_trains_the_same(form, pictures, tuned, tmp_path):
    if form == "dataset":
        repeated = finetune(Pictures(pictures, LABELS), **QUICK)
    elif form == "frame":
        repeated = finetune(pd.DataFrame({"image": pictures, "label": LABELS}), **QUICK)
    else:
        paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
        for path, pixels in zip(paths, pictures, strict=True):
            Image.fromarray(pixels).save(path)
        repeated = finetune(paths, LABELS, **QUICK)
        assert len(repeated.history) == 3  # keys of files are others, and so are splits and renderings
        return
    assert [epoch.val_loss for epoch in repeated.history] == [epoch.val_loss for epoch in tuned.history]


def test_it_leaves_the_process_and_the_disk_as_they_were(pictures, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = torch.get_rng_state(), np.random.get_state()[1], torch.get_num_threads()
    with caplog.at_level(logging.WARNING):
        finetune(pictures, LABELS, **{**QUICK, "epochs": 1})
    after = torch.get_rng_state(), np.random.get_state()[1], torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]
    # Python itself keeps a folder for what its worker processes say, as long as the process lives
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("pymp-")] == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_what_loads_images_ends_with_the_training_and_waits_for_no_garbage_to_be_collected(pictures):
    gc.disable()
    try:
        tuned = finetune(pictures, LABELS, **{**QUICK, "epochs": 1, "num_workers": 1})
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()
    assert len(tuned.history) == 2


def test_a_network_that_is_unpickled_draws_nothing(pictures, tuned):
    pickled, before = pickle.dumps(tuned), torch.get_rng_state()
    assert np.array_equal(pickle.loads(pickled).predict_proba(pictures[:2]), tuned.predict_proba(pictures[:2]))
    assert torch.equal(before, torch.get_rng_state())


def test_groups_are_never_torn_and_every_class_validates(pictures):
    groups = np.arange(len(pictures)) // 6
    manifest = labelled_manifest(all_images(pictures), read_arrays(LABELS)[0], groups, 0.3, seed=0)
    groups_by_split = {split: set(groups[manifest.indices(split)]) for split in ("train", "val")}
    assert groups_by_split["val"]
    assert not groups_by_split["train"] & groups_by_split["val"]
    assert set(manifest.targets[manifest.indices("val")]) == {0, 1, 2}


def test_loaders_are_not_started_where_processes_cannot_be(monkeypatch):
    assert finetuning._loader_workers() is None
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    assert finetuning._loader_workers() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "finetune has no option 'epoch'. Did you mean 'epochs'"),
        ({"strict": True}, "finetune has no option 'strict'"),
        ({"epochs": 0}, "epochs"),
        ({"val_size": 1.0}, "val_size has to lie between 0 and 1"),
        ({"labels": LABELS[:5]}, "labels holds 5 values for 24 images"),
        ({"labels": np.zeros((2, 2, 2))}, r"labels has to hold a value for each sample, \[n\], or several, \[n, k\]"),
        ({"labels": None}, "labels has to be given"),
        ({"labels": ["sea"] * 24}, "at least two are needed"),
        ({"groups": [1]}, "groups holds 1 values for 24 images"),
        ({"unfreeze": "blocks.99"}, "blocks.99"),
        ({"metric": "mae"}, "no metric 'mae' for the task single_label"),
        ({"class_weights": "rare"}, "class_weights"),
        (
            {"class_weights": "balanced", "labels": np.arange(24.0), "task": "regression", "init_head": "new"},
            "`class_weights` balanced weighs classes, and the task regression has none",
        ),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_paid(pictures, given, message):
    with pytest.raises(ValueError, match=message):
        finetune(pictures, **{"labels": LABELS, **QUICK, **given})


def test_an_image_that_cannot_be_read_is_named(pictures, tuned, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text.jpg: not an image"):
        finetune([tmp_path / "text.jpg", *pictures[1:]], LABELS, **QUICK)
    with pytest.raises(ValueError, match=r"text.jpg: not an image"):
        tuned.predict([tmp_path / "text.jpg"])


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_a_network_learns_labels_and_numbers_and_answers_in_their_own_terms(pictures, task):
    classes = np.array([list(COLOURS).index(name) for name in LABELS])
    if task == "multi-label":
        labels = pd.DataFrame({"warm": classes != 1, "cool": classes != 0}).astype(float)
    else:
        labels = 1000.0 + 100 * classes
    network = finetune(pictures, labels, task=task, **{**QUICK, "init_head": "ridge", "epochs": 1})
    predicted = network.predict(pictures)
    if task == "multi-label":
        assert network.classes_.tolist() == ["warm", "cool"]
        assert (predicted == labels.to_numpy(bool)).mean() > 0.8
        assert network.predict_proba(pictures).shape == (24, 2)
        assert network.task.thresholds is not None
    else:
        assert predicted.shape == (24,)
        assert np.abs(predicted - labels).mean() < 40
        assert network.task.interval is not None
        with pytest.raises(ValueError, match="numbers have no probabilities; predict returns them"):
            network.predict_proba(pictures)


class Own(nn.Module):
    """A network of one's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(2))

    def forward(self, x):
        return self.layers(x).mean(dim=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_head": "mlp", "unfreeze": "head"},
        {"init_head": "top", "pool": "none", "cut": "blocks.5", "unfreeze": "3"},
        {"backbone": Own(), "cut": "layers.1", "unfreeze": "all"},
        {"precision": "bf16", "tta": "flip"},
    ],
    ids=["top", "head", "head-of-blocks", "handed-in", "bf16"],
)
def test_a_tuned_network_is_pickled_and_copied_and_so_is_its_module(pictures, options, tmp_path):
    tuned = finetune(pictures, LABELS, **{**QUICK, "epochs": 1, **options})
    images = torch.from_numpy(np.stack(pictures[:4])).permute(0, 3, 1, 2)
    for again in (pickle.loads(pickle.dumps(tuned)), copy.deepcopy(tuned)):
        assert np.array_equal(again.predict_proba(pictures), tuned.predict_proba(pictures))
        assert again.classes_.tolist() == tuned.classes_.tolist()
        assert again.history == tuned.history
    torch.save(tuned.module, tmp_path / "module.pt")
    module = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(module(tuned.preprocess(images)), tuned.module(tuned.preprocess(images)))


def test_what_is_no_batch_of_photographs_is_not_prepared(tuned):
    for images in (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8), np.zeros((1, 3, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"^images has to be a tensor, uint8 \[b, 3, h, w\], of one image or more"):
            tuned.preprocess(images)


def test_a_seed_may_be_a_number_of_numpy(pictures, tuned):
    again = finetune(pictures, LABELS, **QUICK, seed=np.int64(0))
    assert np.array_equal(again.predict_proba(pictures), tuned.predict_proba(pictures))


def test_the_labels_of_a_dataset_are_read_as_a_list_of_them_is(pictures):
    words = [["warm", "any"] if label == LABELS[0] else ["any"] for label in LABELS]
    tuned = finetune(Pictures(pictures, words), **{**QUICK, "epochs": 1, "init_head": "ridge"})
    assert tuned.classes_.tolist() == ["any", "warm"]
    with pytest.raises(ValueError, match=r"^labels says nothing of labels\[3\]: leave these samples out$"):
        finetune(Pictures(pictures, [*LABELS[:3], float("nan"), *LABELS[4:]]), **QUICK)

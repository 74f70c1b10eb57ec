"""Images and masks in, masks out."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone

from cache.errors import DataError, UsageError, WeightsError
from pipeline import TransferSegmenter
from stages.network.graph.trunk import FrozenTrunk
from tests.dense_images import draw

SETTINGS = {"head": "linear", "epochs": 20, "lr": 3e-2, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def pairs():
    images, masks = zip(*(draw(number) for number in range(16)), strict=True)
    masks = [mask.copy() for mask in masks]
    for mask in masks:
        mask[:3] = 255
    return list(images), masks


@pytest.fixture(scope="module")
def segmenter(pairs, tmp_path_factory):
    images, masks = pairs
    cache = tmp_path_factory.mktemp("cache")
    return TransferSegmenter(cache=cache, class_names=("sky", "block", "ground"), **SETTINGS).fit(
        images[:12], masks[:12]
    )


def test_masks_come_back_at_the_size_of_the_images_and_are_right(segmenter, pairs):
    images, masks = pairs
    assert segmenter.classes_.tolist() == ["sky", "block", "ground"]
    wide = np.asarray(Image.fromarray(images[12]).resize((101, 75)))
    predicted = segmenter.predict([images[13], wide])
    assert [mask.shape for mask in predicted] == [(48, 64), (75, 101)]
    assert predicted[0].dtype == np.uint8
    known = masks[13] != 255
    assert (predicted[0] == masks[13])[known].mean() > 0.85
    assert segmenter.score(images[12:], masks[12:]) > 0.5


def test_probabilities_are_of_each_class_and_say_what_is_predicted(segmenter, pairs):
    (probabilities,) = segmenter.predict_proba(pairs[0][12:13])
    assert probabilities.shape == (3, 48, 64)
    assert probabilities.astype(np.float32).sum(axis=0) == pytest.approx(1, abs=1e-2)
    (mask,) = segmenter.predict(pairs[0][12:13])
    assert (probabilities.argmax(axis=0) == mask).mean() > 0.99


def test_files_are_the_same_as_arrays_and_another_head_finds_the_maps_in_the_cache(
    segmenter, pairs, tmp_path, monkeypatch
):
    images, masks = pairs
    places = []
    for number, mask in enumerate(masks[:12]):
        places.append(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(places[-1])
    monkeypatch.setattr(FrozenTrunk, "forward", None)
    again = clone(segmenter).fit(
        images[:12], [str(place) if number % 2 else place for number, place in enumerate(places)]
    )
    monkeypatch.undo()
    for name, tensor in segmenter.head_.state_dict().items():
        assert tensor.equal(again.head_.state_dict()[name])


def test_paths_may_be_an_array_of_text(pairs, tmp_path):
    """Text of NumPy has a ``shape``, as an image has."""
    places = []
    for number, pair in enumerate(zip(*pairs, strict=True)):
        places.append([str(tmp_path / f"{number}-{kind}.png") for kind in ("image", "mask")])
        for place, pixels in zip(places[-1], pair, strict=True):
            Image.fromarray(pixels).save(place)
    images, masks = np.array(places[:6]).T
    segmenter = TransferSegmenter(**{**SETTINGS, "epochs": 1}).fit(images, masks)
    assert segmenter.predict(images[:1])[0].shape == (48, 64)


def test_nothing_is_left_on_disk_without_a_cache(pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    images, masks = pairs
    TransferSegmenter(**{**SETTINGS, "epochs": 1}).fit(images[:6], [mask == 1 for mask in masks[:6]])
    assert list(Path(tmp_path).iterdir()) == []


def test_what_cannot_be_masks_of_these_images_is_refused(segmenter, pairs):
    images, masks = pairs
    fresh = clone(segmenter)
    with pytest.raises(UsageError, match="11 masks for 12 images"):
        fresh.fit(images[:12], masks[:11])
    with pytest.raises(UsageError, match=r"masks\[0\] is of the shape \[48, 64\] and the type float32"):
        fresh.fit(images[:2], [mask.astype(np.float32) for mask in masks[:2]])
    with pytest.raises(DataError, match="other proportions"):
        fresh.fit(images[:4], [mask[:20] for mask in masks[:4]])
    with pytest.raises(UsageError, match="validation_fraction"):
        clone(segmenter).set_params(validation_fraction=2).fit(images[:4], masks[:4])
    with pytest.raises(DataError, match=r"masks\[0\] is 20 x 64"):
        segmenter.score(images[:1], [masks[0][:20]])


def test_a_saved_segmenter_says_the_same_and_knows_its_masks(segmenter, pairs, tmp_path):
    images, masks = pairs
    segmenter.save(tmp_path / "scenes")
    assert {path.name for path in tmp_path.iterdir()} == {"scenes.safetensors", "scenes.json"}
    again = TransferSegmenter.load(tmp_path / "scenes", device="cpu")
    assert again.classes_.tolist() == segmenter.classes_.tolist()
    assert np.array_equal(again.predict(images[14:15])[0], segmenter.predict(images[14:15])[0])
    assert again.score(images[14:], masks[14:]) == segmenter.score(images[14:], masks[14:])
    assert again.get_params()["epochs"] == SETTINGS["epochs"]
    described = json.loads((tmp_path / "scenes.json").read_text())
    described["metadata"]["weights"] = "0" * 64
    (tmp_path / "scenes.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match="other weights"):
        TransferSegmenter.load(tmp_path / "scenes", device="cpu")


@pytest.mark.parametrize(
    "way", [lambda given: pickle.loads(pickle.dumps(given)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_a_fitted_segmenter_is_pickled_and_copied_with_its_network(segmenter, pairs, way):
    images, masks = pairs
    again = way(segmenter)
    assert again.get_params() == segmenter.get_params()
    assert np.array_equal(again.predict(images[12:]), segmenter.predict(images[12:]))
    assert again.score(images[12:], masks[12:]) == segmenter.score(images[12:], masks[12:])


def test_masks_may_be_one_tensor(segmenter, pairs):
    images, masks = pairs
    assert segmenter.score(images[12:], torch.from_numpy(np.stack(masks[12:]))) == segmenter.score(
        images[12:], masks[12:]
    )


def test_messages_name_masks_as_they_were_given(segmenter, pairs):
    images, masks = pairs
    with pytest.raises(DataError, match=r"^masks\[0\]: it holds 77, which is no class of this data$"):
        segmenter.score(images[12:], [np.where(mask == 1, 77, mask) for mask in masks[12:]])
    with pytest.raises(DataError, match=r"other proportions than their images: masks\[0\] is 64 x 10 and its image"):
        TransferSegmenter(**SETTINGS).fit(images, [mask[:10] for mask in masks])
    with pytest.raises(UsageError, match=r"^images holds none, and a score is of some$"):
        segmenter.score([], [])
    with pytest.raises(UsageError, match=r"^images holds none, and there is nothing to learn from$"):
        TransferSegmenter(**SETTINGS).fit([], [])


@pytest.mark.parametrize("names", ["ab", ("a", "a"), [0, 1, 2], {0: "a", 1: "b"}])
def test_names_of_classes_are_a_sequence_of_different_texts(pairs, names):
    with pytest.raises(UsageError, match=r"^class_names has to be a sequence of different texts, not "):
        TransferSegmenter(class_names=names, **SETTINGS).fit(*pairs)

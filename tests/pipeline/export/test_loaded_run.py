"""A run as one object: predictions of paths and arrays, a module, an estimator."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import is_classifier, is_regressor

import pipeline
from cache import DigestCache
from cache.errors import UsageError
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.export import loaded_run


def loaded(saved, kind):
    directory = saved(kind)
    return pipeline.load(directory.parent.parent, directory.name, device="cpu")


def test_paths_and_arrays_are_predicted_alike_and_as_by_the_command(saved, images):
    run = loaded(saved, "linear")
    by_path, by_command = run.predict(images), predict_images(run.method.directory, images, "cpu")[0]
    by_array = run.predict([np.array(Image.open(path)) for path in images])
    for one, other, command in zip(by_path, by_array, by_command, strict=True):
        assert one.words == command.words
        assert np.allclose(one.activated, other.activated, atol=1e-6)
    assert run.class_names == ("cat", "dog", "eel")
    assert "head-linear" in repr(run)


def test_the_module_takes_pixels_or_normalized_images(saved, images):
    run = loaded(saved, "tuned")
    expected = run.predict_proba(images[:1])
    pixels = torch.from_numpy(np.array(Image.open(images[0]))).permute(2, 0, 1)
    assert np.allclose(run.module()(pixels[None]).numpy(), expected, atol=1e-5)
    preprocessing = run.networks()[0].extractor.backbone.preprocessing
    image = preprocessing.normalize(preprocessing.render(pixels)[None]).requires_grad_()
    logits = run.module(normalized=True)(image)
    assert np.allclose(logits.softmax(1).detach().numpy(), expected, atol=1e-5)
    logits.sum().backward()
    assert image.grad.abs().sum() > 0
    with pytest.raises(UsageError, match="normalized=True is for methods on images alone"):
        loaded(saved, "columns").module(normalized=True)


def test_the_estimator_is_a_fitted_classifier_or_regressor(saved, images):
    run = loaded(saved, "linear")
    classifier = run.estimator()
    assert is_classifier(classifier)
    assert classifier.predict(images).tolist() == [one.cells["class"] for one in run.predict(images)]
    assert classifier.score(images, classifier.predict(images)) == 1
    numbers = loaded(saved, "numbers")
    regressor = numbers.estimator()
    assert is_regressor(regressor)
    said = [float(one.words.split()[0]) for one in numbers.predict(images)]
    assert np.allclose(regressor.predict(images), said, rtol=1e-3)
    labels = loaded(saved, "labels").estimator().predict(images)
    assert (labels.shape, set(np.unique(labels)) <= {0, 1}) == ((6, 3), True)
    with pytest.raises(UsageError, match="a method of a finished run"):
        classifier.fit(images, [0] * 6)


def test_columns_are_given_beside_the_images(saved, images):
    run = loaded(saved, "columns")
    columns = {"area": [1, 2, ""], "kind": ["a", "b", "z"]}
    assert len({tuple(one.activated) for one in run.predict([images[0]] * 3, columns)}) == 3
    with pytest.raises(UsageError, match="columns say something of 3 samples, and there are 1"):
        run.predict(images[:1], columns)
    with pytest.raises(UsageError, match="takes columns beside them"):
        run.estimator()


class FrameOfPolars(dict):
    """As much of a data frame of polars as is read: one iterates over the values of its columns."""

    def __iter__(self):
        return iter(self.values())

    @property
    def columns(self):
        return list(self.keys())


def test_columns_are_taken_from_data_frames_of_any_kind_and_what_is_no_table_is_refused(saved):
    run = loaded(saved, "table")
    columns = {"area": [1, 2], "kind": ["a", "b"]}
    expected = run.predict(columns=columns)
    assert run.predict(columns=pd.DataFrame(columns, index=[7, 3])) == expected
    assert run.predict(columns=FrameOfPolars(columns)) == expected
    assert run.predict(columns={**columns, "kind": ["a", "a"]}) != expected
    with pytest.raises(UsageError, match=r"columns are of unlike lengths: area 2, kind 1$"):
        run.predict(columns={"area": [1, 2], "kind": ["a"]})
    with pytest.raises(UsageError, match=r"columns has to be a mapping of names to sequences, or a data frame, not \["):
        run.predict(columns=[{"area": 1, "kind": "a"}])


def test_what_has_no_such_answer_is_refused(saved, images, tmp_path):
    for kind in ("masks", "mean"):
        with pytest.raises(UsageError, match=r"one image a sample, and head-\w+ is none: take module\(\)"):
            loaded(saved, kind).predict(images)
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(ValueError, match="none of the 1 images could be read; the first: not an image"):
        loaded(saved, "linear").predict([tmp_path / "bad.png"])
    for empty in ({"images": []}, {"columns": {"area": [], "kind": []}}):
        with pytest.raises(UsageError, match="nothing is given to predict"):
            loaded(saved, "linear" if "images" in empty else "table").predict(**empty)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None,), "run has to be the path of a run, not None"),
        (("photos", 3), "method has to be the name of one, not 3"),
    ],
)
def test_what_names_no_run_or_method_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        pipeline.load(*given)


def test_a_network_is_opened_once_and_where_nothing_needs_it_not_at_all(saved, images, monkeypatch):
    opened = []
    open_networks = loaded_run.open_networks
    monkeypatch.setattr(loaded_run, "open_networks", lambda *given: opened.append(given) or open_networks(*given))
    run = loaded(saved, "linear")
    assert opened == []
    first, second = run.predict_proba(images), run.predict_proba(images[::-1])
    assert np.allclose(first, second[::-1], atol=1e-6)
    assert len(opened) == 1
    again = pickle.loads(pickle.dumps(run))
    assert np.allclose(again.predict_proba(images), first, atol=1e-6)
    assert len(opened) == 2
    table = loaded(saved, "table").predict(columns={"area": [1, 2], "kind": ["a", "b"]})
    assert len({tuple(one.activated) for one in table}) == 2
    assert len(opened) == 2
    with pytest.raises(UsageError, match="looks at columns alone: leave images out"):
        loaded(saved, "table").predict(images)
    with pytest.raises(UsageError, match="takes images, and none are given"):
        run.predict()


def test_features_in_the_cache_need_no_network(saved, images, monkeypatch):
    run = loaded(saved, "mlp")
    expected = run.predict_proba(images[:2])
    extractor = run.networks()[0].extractor
    keys = DigestCache(None).keys([str(path) for path in images[:2]])[0]
    rows = next(extractor.computed(extractor.request(str(path), keys[str(path)]) for path in images[:2])).rows[0]
    with extractor.taps[0].cache.writer() as writer:
        writer.append([keys[str(path)] for path in images[:2]], rows, seconds=1.0)
    monkeypatch.setattr(loaded_run, "open_networks", None)
    assert np.allclose(loaded(saved, "mlp").predict_proba(images[:2]), expected, atol=1e-3)
    with pytest.raises(TypeError):
        loaded(saved, "mlp").predict_proba(images[2:])


def test_a_mean_over_networks_is_loaded_as_any_other_method(saved, images):
    run = loaded(saved, "mixture")
    assert len(run.networks()) == 3  # two heads share one
    expected = run.predict_proba(images)
    by_command = predict_images(run.method.directory, images, "cpu")[0]
    assert np.allclose(expected, [one.activated for one in by_command], atol=1e-6)
    for path, answer in zip(images, expected, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert np.allclose(run.module()(pixels[None]).numpy()[0], answer, atol=1e-5)
    assert is_classifier(run.estimator())
    with pytest.raises(UsageError, match="is a mean over 3, each of which sees images in its own way"):
        run.module(normalized=True)


def test_a_method_that_was_trained_anew_or_moved_is_to_be_loaded_again(saved, images, tmp_path):
    directory = shutil.copytree(saved("linear").parent.parent, tmp_path / "run") / "seed-0" / "head-linear"
    other, opened = (pipeline.load(tmp_path / "run", "head-linear", device="cpu") for _ in range(2))
    before = opened.predict_proba(images)
    card = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps({**card, "identity": "of another training"}))
    for moved in (False, True):
        if moved:
            directory.rename(directory.with_name("elsewhere"))
        for ask in (lambda: other.predict(images), other.networks, other.module, opened.module):
            with pytest.raises(UsageError, match="head-linear was moved, removed or trained anew since it was loaded"):
                ask()
        assert np.array_equal(opened.predict_proba(images), before)  # whose networks are open
    assert pipeline.load(tmp_path / "run", "elsewhere", device="cpu").predict(images)

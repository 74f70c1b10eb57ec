"""What is held out of a fit, and which heads on disk are estimators."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import make_blobs

from pipeline.library import head_estimator
from pipeline.library.estimators import TransferClassifier
from pipeline.library.regressor import TransferRegressor
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import save_head
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression


def test_what_was_fitted_on_a_gpu_is_unpickled_where_there_is_none(gpu):
    X, y = make_blobs(60, centers=3, random_state=0)
    fitted = TransferClassifier("ridge", device="cuda", random_state=0).fit(X, y)
    answers = fitted.predict_proba(X)
    unpickled = pickle.loads(pickle.dumps(fitted))
    for module in (unpickled.head_, unpickled.result_.module, unpickled.result_.module_train_only):
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert np.allclose(unpickled.predict_proba(X), answers, atol=1e-5)  # on the GPU again
    assert {tensor.device.type for tensor in unpickled.head_.state_dict().values()} == {"cuda"}
    assert np.allclose(unpickled.set_params(device="cpu").predict_proba(X), answers, atol=1e-4)
    assert {tensor.device.type for tensor in fitted.head_.state_dict().values()} == {"cuda"}


def test_groups_stay_on_one_side_of_what_is_held_out(monkeypatch):
    seen = {}

    def spy(name, problem):
        seen.update(train=set(problem.train.groups), val=set(problem.val.groups))
        return train_head(name, problem)

    train_head = head_estimator.train_head
    monkeypatch.setattr(head_estimator, "train_head", spy)
    X, y = make_blobs(60, centers=2, random_state=0)
    TransferClassifier("ridge", random_state=0).fit(X, y, groups=[f"patient {n % 12}" for n in range(60)])
    assert seen["val"]
    assert not seen["train"] & seen["val"]
    with pytest.raises(ValueError, match="groups holds 2 values for 60 samples; there has to be one for each"):
        TransferClassifier("ridge").fit(X, y, groups=[1, 2])


def test_labels_of_which_no_two_samples_have_the_same_ones_are_held_out_label_by_label():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(120, 30)).astype(np.float32)
    Y = (X[:, :12] + 0.5 * generator.normal(size=(120, 12)) > 0.3).astype(int)
    assert len(np.unique(Y, axis=0)) > 110
    fitted = TransferClassifier("ridge", random_state=0).fit(X, Y)
    assert fitted.result_.val_score > 0.5  # on a fifth, held out; all of them were once
    assert (fitted.predict(X) == Y).mean() > 0.8


@pytest.mark.parametrize(
    ("task", "kind", "shape"),
    [
        (MultiLabel(["car", "tree"], [0.4, 0.6]), TransferClassifier, (3, 2)),
        (Regression(("price",), (5.0,), (2.0,), interval=(1.0,)), TransferRegressor, (3,)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_head_of_a_run_is_an_estimator_of_its_task(task, kind, shape, tmp_path):
    save_head(tmp_path / "head", LinearHead((4,), task.out_features), {"task": task.to_json()})  # as a run leaves it
    assert kind.load(tmp_path / "head").predict(np.zeros((3, 4), np.float32)).shape == shape
    other = TransferRegressor if kind is TransferClassifier else TransferClassifier
    with pytest.raises(ValueError, match="so it is no"):
        other.load(tmp_path / "head")


@pytest.mark.parametrize(
    "images",
    [
        ["cat.jpg", "dog.jpg"],
        [Image.new("RGB", (8, 8))] * 2,
        np.zeros((2, 8, 8, 3), np.uint8),
        [np.zeros((8, 8), np.uint8)] * 2,
    ],
    ids=["paths", "Pillow", "an array", "arrays"],
)
def test_images_in_place_of_their_features_are_told_as_such(images):
    message = r"X has to be features, float .*, and these are images: make it by pipeline.features"
    for estimator, targets in ((TransferClassifier("ridge"), ["cat", "dog"]), (TransferRegressor(), [1.0, 2.0])):
        with pytest.raises(ValueError, match=message):
            estimator.fit(images, targets)
    X, y = make_blobs(20, centers=2, random_state=0)
    with pytest.raises(ValueError, match=message):
        TransferClassifier("ridge").fit(X, y).predict(images)

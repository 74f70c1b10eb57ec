"""The estimators under scikit-learn's own rules, and in what people put estimators into."""

import io
import math
import pickle
import random
import re
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator

from pipeline.library.estimators import FeatureExtractor, TransferClassifier
from pipeline.library.functions import features
from stages.extraction.extractor import Extractor
from stages.network.heads.attention_pool import AttentionHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import load_head, save_head
from tests.photographs import COLOURS, photograph

HEADS = ("ridge", "logistic", "svm", "knn", "ncm", "sgd", "rbf", "mlp")
SIZE = 64


@pytest.fixture(scope="module")
def pictures():
    return [np.asarray(photograph(colour, seed)) for seed in range(8) for colour in COLOURS.values()]


LABELS = np.array(list(COLOURS) * 8)


@pytest.fixture
def forwards(monkeypatch):
    """The numbers of each row that is made of an image; a GPU calls the trunk a few times more, to record it."""
    seen = []
    forward = Extractor.forward_rows

    def counted(self, images):
        rows = forward(self, images)
        seen.extend([rows[0].shape[1]] * len(images))
        return rows

    monkeypatch.setattr(Extractor, "forward_rows", counted)
    return seen


@pytest.fixture
def few_epochs(monkeypatch):
    options = TransferClassifier._head_options
    quick = {"fit_epochs": 10, "fit_lr": (1e-2,), "hidden_dim": 128}
    monkeypatch.setattr(
        TransferClassifier, "_head_options", lambda self, **more: replace(options(self, **more), **quick)
    )


@pytest.mark.filterwarnings("ignore")  # some checks are of data that scikit-learn itself warns about
@pytest.mark.parametrize("head", [head for head in HEADS if head != "svm"])  # which is fitted as logistic is
def test_scikit_learn_finds_nothing_wrong_with_a_head(head, few_epochs):
    """One value of C, two folds, ten epochs: what is checked does not depend on how many are tried."""
    check_estimator(TransferClassifier(head, c_values=(0.1,), scalers=("standard",), cv=2))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_and_its_probabilities_are_those_of_its_choice(head):
    X, y = make_blobs(90, n_features=5, centers=3, random_state=0)
    names = np.array(["sea", "fire", "leaf"])[y]
    classifier = TransferClassifier(head, c_values=(0.01, 1.0), random_state=0).fit(X, names)
    assert classifier.classes_.tolist() == ["fire", "leaf", "sea"]
    assert classifier.n_features_in_ == 5
    assert classifier.score(X, names) > 0.9
    probabilities = classifier.predict_proba(X)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(classifier.classes_[probabilities.argmax(axis=1)], classifier.predict(X))
    assert classifier.result_.val_score > 0.8


def test_a_fit_depends_on_the_random_state_alone(few_epochs):
    X, y = load_digits(n_class=4, return_X_y=True)
    X, y = X[:200], y[:200]
    fits = [TransferClassifier("mlp", random_state=seed).fit(X, y).predict_proba(X) for seed in (3, 3, 4)]
    assert np.array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])
    drawn = [TransferClassifier("sgd", random_state=np.random.RandomState(0)).fit(X, y).result_ for _ in range(2)]
    assert drawn[0].val_loss == drawn[1].val_loss


def test_a_saved_head_is_safetensors_and_answers_the_same(tmp_path):
    import torch

    X, y = make_blobs(60, centers=2, random_state=0)
    classifier = TransferClassifier("logistic", random_state=0).fit(X, y)
    classifier.save(tmp_path / "head")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.json", "head.safetensors"]
    head, metadata = load_head(tmp_path / "head")
    assert metadata["class_names"] == [0, 1]
    probabilities = head(torch.from_numpy(X).float()).softmax(dim=1).detach().numpy()
    assert np.allclose(probabilities, classifier.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("head", [*HEADS, "kernel_ridge", "linear"])
def test_random_numbers_that_a_script_draws_are_those_it_would_draw_without_a_head(head, few_epochs, tmp_path):
    X, y = make_blobs(60, n_features=4, centers=3, random_state=0)
    draws = []
    for uses in (False, True):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        if uses:
            classifier = TransferClassifier(head, c_values=(0.1, 1.0), cv=3, random_state=7).fit(X, y)
            classifier.save(tmp_path / "head")
            loaded = TransferClassifier.load(tmp_path / "head")
            assert np.array_equal(pickle.loads(pickle.dumps(classifier)).predict(X), loaded.predict(X))
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("head", ["ridge", "rbf", "mlp"])
def test_a_loaded_classifier_is_the_one_that_was_saved(head, tmp_path):
    X, y = make_blobs(60, n_features=4, centers=3, random_state=0)
    classifier = TransferClassifier(head, c_values=(0.1, 1.0), cv=3, random_state=np.int64(7)).fit(X, y)
    classifier.save(tmp_path / "head")
    loaded = TransferClassifier.load(tmp_path / "head.json")
    assert loaded.get_params() == classifier.get_params()
    assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert clone(loaded).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    "named",
    [
        lambda y: y.astype(np.int16),
        lambda y: y == 0,
        lambda y: np.array(["sea", "fire", "leaf"])[y],
        lambda y: y.astype(np.float32),
        lambda y: np.array(["sea", "fire", "leaf"], dtype=object)[y],
    ],
    ids=("int16", "bool", "text", "float", "object"),
)
def test_loaded_classes_are_of_the_type_they_had(named, tmp_path):
    X, y = make_blobs(60, n_features=4, centers=3, random_state=0)
    classifier = TransferClassifier("ncm", random_state=0).fit(X, named(y))
    classifier.save(tmp_path / "head")
    loaded = TransferClassifier.load(tmp_path / "head")
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert np.array_equal(loaded.predict(X), classifier.predict(X))


def test_a_loaded_classifier_knows_its_columns(tmp_path):
    X, y = make_blobs(60, n_features=2, centers=2, random_state=0)
    frame = pd.DataFrame(X, columns=["width", "height"])
    classifier = TransferClassifier("ridge", random_state=0).fit(frame, pd.Series(y.astype(str), dtype=object))
    classifier.save(tmp_path / "head")
    loaded = TransferClassifier.load(tmp_path / "head")
    assert loaded.predict(frame).tolist() == classifier.predict(frame).tolist()
    assert loaded.n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame.rename(columns={"width": "depth"}))


def test_what_cannot_be_saved_or_loaded_is_told(tmp_path):
    X, y = make_blobs(60, centers=2, random_state=0)
    dated = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]")[y]
    classifier = TransferClassifier("ridge", random_state=np.random.RandomState(0)).fit(X, dated)
    with pytest.raises(ValueError, match=r"classes of the type datetime64\[D\] cannot be saved.*y.astype\(str\)"):
        classifier.save(tmp_path / "head")
    classifier.fit(X, y).save(tmp_path / "head")
    assert TransferClassifier.load(tmp_path / "head").random_state is None
    save_head(tmp_path / "maps", AttentionHead((8, 2, 2), 2), {"class_names": ["a", "b"]})
    with pytest.raises(ValueError, match=r"takes rows of shape \[8, 2, 2\], and an estimator takes vectors"):
        TransferClassifier.load(tmp_path / "maps")
    save_head(tmp_path / "nameless", LinearHead((8,), 2), {})
    with pytest.raises(ValueError, match="nameless was saved without its classes"):
        TransferClassifier.load(tmp_path / "nameless")
    with pytest.raises(ValueError, match=r"nowhere.json with nowhere.safetensors cannot be read"):
        TransferClassifier.load(tmp_path / "nowhere")
    save_head(tmp_path / "pixels", LinearHead((8,), 2), {"task": {"name": "dense", "class_names": ["a", "b"]}})
    with pytest.raises(ValueError, match="pixels says the class of each pixel, so it is no classifier of features"):
        TransferClassifier.load(tmp_path / "pixels")


def test_names_that_differ_after_a_point_are_different_files(tmp_path):
    X, y = make_blobs(60, centers=2, random_state=0)
    for name, classes in (("cats-1.0", y), ("cats-1.1", y + 2)):
        TransferClassifier("ridge", random_state=0).fit(X, classes).save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"cats-1.{number}.{kind}" for number in (0, 1) for kind in ("json", "safetensors")
    }
    for name in ("cats-1.0", "cats-1.0.json", "cats-1.0.safetensors"):
        assert TransferClassifier.load(tmp_path / name).classes_.tolist() == [0, 1]


def test_the_head_of_a_run_is_loaded_as_a_classifier():
    method = Path(__file__).parents[1] / "experiment" / "fixtures" / "version_1" / "run" / "seed-0" / "linear-ridge"
    classifier = TransferClassifier.load(method / "head", device="cpu")
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.get_params() == TransferClassifier(device="cpu").get_params()
    rows = np.zeros((2, classifier.n_features_in_), np.float32)
    assert np.allclose(classifier.predict_proba(rows).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"head": "logistics"}, "Did you mean 'logistic'"),
        ({"class_weights": "even"}, "`class_weights` 'even' is not one that there is. There are none, balanced."),
        ({"validation_fraction": 1.5}, r"validation_fraction has to lie between 0 and 1, not be 1.5"),
        ({"c_values": ()}, "at least one value"),
        ({"scalers": "standrad"}, "`scalers` 'standrad' is not one that there is. Did you mean 'standard'"),
        ({"cv": StratifiedKFold(3)}, r"`cv` StratifiedKFold\(.*\) must be a whole number"),
        ({"cv": 40}, "40"),
        ({"metric": "r2"}, "no metric 'r2' for the task single_label"),
        ({"device": "gpu"}, "gpu"),
        ({"head": "concat"}, None),
    ],
)
def test_wrong_parameters_are_told_when_it_is_fitted(parameters, message):
    X, y = make_blobs(60, centers=2, random_state=0)
    classifier = TransferClassifier(**parameters)
    if message is None:
        classifier.fit(X, y)
        return
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "chosen_by"),
    [({}, "accuracy"), ({"metric": "f1-macro"}, "f1_macro"), ({"class_weights": "balanced"}, "balanced_accuracy")],
)
def test_settings_are_chosen_by_the_metric_that_is_named_or_goes_with_the_weights(parameters, chosen_by, tmp_path):
    X, y = make_blobs(60, centers=3, cluster_std=6, random_state=0)
    fitted = TransferClassifier("ridge", random_state=0, **parameters).fit(X, y)
    assert fitted.result_.task.primary == chosen_by
    fitted.save(tmp_path / "head")
    assert TransferClassifier.load(tmp_path / "head").metric == parameters.get("metric")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"c_values": 0.1, "scalers": "standard"}, {"c_values": (0.1,), "scalers": ("standard",)}),
        ({"c_values": "0.1,1"}, {"c_values": (0.1, 1.0)}),
        ({"c_values": np.array([0.1, 1.0])}, {"c_values": [0.1, 1.0]}),
    ],
)
def test_parameters_of_several_values_take_one_as_well_and_arrays(given, taken, tmp_path):
    X, y = make_blobs(60, centers=3, cluster_std=6, random_state=0)
    fitted, same = (
        TransferClassifier("ridge", random_state=0, **parameters).fit(X, y) for parameters in (given, taken)
    )
    assert fitted.result_.settings == same.result_.settings
    assert np.array_equal(fitted.predict_proba(X), same.predict_proba(X))
    fitted.save(tmp_path / "head")
    loaded = TransferClassifier.load(tmp_path / "head")
    assert np.array_equal(loaded.fit(X, y).predict_proba(X), same.predict_proba(X))


@pytest.mark.parametrize("unknown", [None, pd.NA])
def test_samples_without_a_class_are_counted(unknown):
    X, y = make_blobs(60, centers=3, random_state=0)
    names = pd.Series([unknown if number in (7, 9) else f"class {label}" for number, label in enumerate(y)])
    for classes in (names, names.astype("string") if unknown is pd.NA else names.to_list()):
        with pytest.raises(ValueError, match="does not know the class of 2 of 60 samples, the first is sample 7"):
            TransferClassifier("ridge").fit(X, classes)


def test_too_little_to_learn_from_is_told():
    with pytest.raises(ValueError, match="one class only, 'a'"):
        TransferClassifier().fit([[1.0], [2.0]], ["a", "a"])
    with pytest.raises(ValueError, match="none of the 2 samples can be held out"):
        TransferClassifier().fit([[1.0], [2.0]], ["a", "b"])


def test_what_is_not_fitted_says_so():
    for ask in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(TransferClassifier(), ask)([[1.0]])
    with pytest.raises(NotFittedError):
        TransferClassifier().save("nowhere")
    with pytest.raises(NotFittedError):
        Pipeline([("extractor", FeatureExtractor()), ("classifier", TransferClassifier())]).predict([])


# -- images --------------------------------------------------------------------------------------------------------


def test_the_extractor_transforms_without_being_fitted(pictures):
    extractor = FeatureExtractor(image_size=SIZE)
    rows = extractor.transform(pictures)
    assert np.array_equal(rows, features(pictures, image_size=SIZE))
    assert np.array_equal(extractor.fit(pictures, LABELS).transform(pictures), rows)
    assert np.array_equal(clone(extractor).fit_transform(pictures), rows)


def test_the_extractor_keeps_its_parameters_as_they_are(tmp_path):
    given = {"cut": ("blocks.2", "blocks.3"), "cache": tmp_path, "weights": "none", "image_size": SIZE}
    given |= {"crop_mode": "border"}
    extractor = clone(FeatureExtractor("resnet18", **given))
    assert {name: value for name, value in extractor.get_params().items() if name in given} == given
    assert extractor.set_params(backbone="resnet34").backbone == "resnet34"
    assert extractor._options().crop_mode == "border"


def test_the_extractor_names_its_columns_and_speaks_pandas(pictures):
    extractor = FeatureExtractor(image_size=SIZE, cut=("blocks.2", "blocks.3")).set_output(transform="pandas")
    index = [f"sample {number}" for number in range(len(pictures))]
    frame = extractor.fit_transform(pd.DataFrame({"image": pictures}, index=index))
    assert frame.shape == (24, 120)
    assert len(set(frame.columns)) == 120
    assert re.fullmatch(r"blocks\.2\..*_0", frame.columns[0])
    assert re.fullmatch(r"blocks\.3\..*_79", frame.columns[-1])
    assert frame.index.tolist() == index
    assert np.array_equal(
        frame.to_numpy(), FeatureExtractor(image_size=SIZE, cut="blocks.2,blocks.3").transform(pictures)
    )


def test_maps_are_no_rows_of_a_table(pictures):
    with pytest.raises(ValueError, match=r"pool='none' gives rows of shape \[40, 8, 8\].*choose 'avg'"):
        FeatureExtractor(image_size=SIZE, cut="blocks.2", pool="none").transform(pictures)
    with pytest.raises(ValueError, match="images has to be"):
        FeatureExtractor().fit("photo.jpg")


def test_a_pipeline_cross_validates_and_goes_through_joblib(pictures, tmp_path):
    steps = [
        ("extractor", FeatureExtractor(image_size=SIZE, cache=tmp_path)),
        ("classifier", TransferClassifier("ridge", random_state=0)),
    ]
    model = Pipeline(steps)
    assert cross_val_score(model, pictures, LABELS, cv=3).mean() > 0.8
    frame = pd.DataFrame({"image": pictures})
    assert cross_val_score(model, frame, LABELS, cv=GroupKFold(2), groups=np.arange(24) // 6).mean() > 0.8
    model.fit(pictures, LABELS)
    file = io.BytesIO()
    joblib.dump(model, file)
    restored = joblib.load(file)
    assert np.array_equal(restored.predict_proba(pictures), model.predict_proba(pictures))
    assert clone(model).get_params()["extractor__image_size"] == SIZE


def test_a_grid_over_cuts_runs_each_image_once_through_each_cut(pictures, forwards, tmp_path):
    model = Pipeline(
        [
            ("extractor", FeatureExtractor(image_size=SIZE, cache=tmp_path, batch_size=1)),
            ("classifier", TransferClassifier("ridge", random_state=0)),
        ]
    )
    cuts = ["blocks.2", "blocks.3"]
    grid = {"extractor__cut": cuts, "classifier__head": ["ridge", "ncm"]}
    search = GridSearchCV(model, grid, cv=3).fit(pictures, LABELS)
    assert search.best_score_ > 0.8
    assert {width: forwards.count(width) for width in set(forwards)} == {40: len(pictures), 80: len(pictures)}
    assert math.isfinite(search.score(pictures, LABELS))
    assert len(forwards) == 2 * len(pictures)

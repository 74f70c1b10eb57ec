"""Heads: shapes, scikit-learn models as a linear layer, and saving without pickle."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cache.errors import UsageError, WeightsError
from stages.network.heads import ConcatHead, KernelHead, LinearHead, build_head, load_head, save_head
from stages.network.pooling import average_and_max


@pytest.mark.parametrize("name", ["linear", "mlp", "concat"])
def test_heads_return_logits_for_vectors(name):
    assert build_head(name, (12,), 3, hidden=8)(torch.randn(4, 12)).shape == (4, 3)


@pytest.mark.parametrize("shape", [(6, 5, 5), (5, 5, 6), (25, 6)])
def test_concat_takes_maps_and_tokens(shape):
    head = build_head("concat", shape, 3, hidden=8)
    assert head(torch.randn(4, *shape)).shape == (4, 3)
    assert head.layers[0].num_features == 12


def test_concat_on_a_map_equals_concat_on_the_row_pooled_to_average_and_maximum():
    maps = torch.randn(4, 6, 5, 5)
    on_maps, on_rows = ConcatHead((6, 5, 5), 3, hidden=8).eval(), ConcatHead((12,), 3, hidden=8).eval()
    on_rows.load_state_dict(on_maps.state_dict())
    assert torch.equal(on_maps(maps), on_rows(average_and_max(maps, (2, 3))))


def test_concat_has_the_layers_of_its_name():
    layers = [type(layer).__name__ for layer in ConcatHead((12,), 3, dropout=0.5).layers]
    assert layers == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in ConcatHead((12,), 3, dropout=0.5).layers if hasattr(layer, "p")] == [0.25, 0.5]


@pytest.mark.parametrize("name", ["linear", "mlp", "concat"])
def test_dropout_is_on_in_training_only(name):
    head = build_head(name, (64,), 3, dropout=0.5)
    x = torch.randn(8, 64)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_maps_are_refused_with_the_poolings_that_fit(name):
    with pytest.raises(
        UsageError, match=rf"--head {name} takes vectors.*maps.*\[6, 5, 5\].*avg, max or avgmax.*concat"
    ):
        build_head(name, (6, 5, 5), 3)
    with pytest.raises(UsageError, match="tokens"):
        build_head(name, (25, 6), 3)


def test_unknown_heads_and_rows_are_refused():
    with pytest.raises(UsageError, match=r"no torch head 'concatt'.*'concat'"):
        build_head("concatt", (6,), 3)
    with pytest.raises(UsageError, match="not rows of shape"):
        build_head("concat", (2, 3, 4), 3)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn_models_become_one_linear_layer(scaled, classes):
    rows, labels = load_iris(return_X_y=True)
    rows, labels = rows[labels < classes], labels[labels < classes]
    scaler = StandardScaler().fit(rows)
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(rows) if scaled else rows, labels)
    head = LinearHead.from_coefficients(
        fitted.coef_, fitted.intercept_, *((scaler.mean_, scaler.scale_) if scaled else ())
    )
    with torch.no_grad():
        ours = head.eval()(torch.from_numpy(rows).float()).softmax(1).numpy()
    model = make_pipeline(scaler, fitted) if scaled else fitted
    np.testing.assert_allclose(ours, model.predict_proba(rows), atol=2e-4)
    assert (ours.argmax(1) == model.predict(rows)).all()


def test_folded_scaler_survives_constant_columns():
    rows, labels = load_digits(return_X_y=True)
    scaler = StandardScaler().fit(rows)
    fitted = RidgeClassifier().fit(scaler.transform(rows), labels)
    head = LinearHead.from_coefficients(fitted.coef_, fitted.intercept_, scaler.mean_, scaler.scale_)
    with torch.no_grad():
        scores = head(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(scores, fitted.decision_function(scaler.transform(rows)), atol=1e-4)


def test_support_vector_machines_become_a_kernel_head_and_come_back_the_same(tmp_path):
    rows, labels = load_wine(return_X_y=True)
    scaler = StandardScaler().fit(rows)
    machine = SVC(gamma=0.05).fit(scaler.transform(rows[labels < 2]), labels[labels < 2])
    coefficients = np.concatenate([np.zeros_like(machine.dual_coef_), machine.dual_coef_]).T
    bias = [0.0, machine.intercept_[0]]
    head = KernelHead.from_support(machine.support_vectors_, coefficients, bias, 0.05, scaler.mean_, scaler.scale_)
    save_head(tmp_path / "head", head, {})
    scores = load_head(tmp_path / "head")[0](torch.from_numpy(rows).float()).detach()
    expected = machine.decision_function(scaler.transform(rows))
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize(("name", "shape"), [("linear", (12,)), ("mlp", (12,)), ("concat", (6, 5, 5))])
def test_saved_heads_come_back_the_same(tmp_path, name, shape):
    head = build_head(name, shape, 3, hidden=8, dropout=0.25)
    head.train()(torch.randn(4, *shape))
    save_head(tmp_path / "run" / "head.safetensors", head, {"classes": ["a", "b", "c"], "C": 0.1})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"head.safetensors", "head.json"}
    loaded, metadata = load_head(tmp_path / "run" / "head")
    x = torch.randn(4, *shape)
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.config == head.config
    assert metadata == {"classes": ["a", "b", "c"], "C": 0.1}


def test_heads_that_cannot_be_loaded_are_messages(tmp_path):
    with pytest.raises(WeightsError, match=r"head\.json .*cannot be read"):
        load_head(tmp_path / "head")
    save_head(tmp_path / "head", LinearHead((4,), 2), {})
    description = json.loads((tmp_path / "head.json").read_text())
    for change, message in (
        ({"version": 2}, "version 2, and this Cutpoint reads version 1"),
        ({"format": "other"}, "does not describe a head"),
        ({"config": {**description["config"], "num_classes": 3}}, "does not hold the head"),
        ({"config": {**description["config"], "layers": 3}}, "does not hold the head"),
        ({"config": {}}, "does not hold the head"),
    ):
        (tmp_path / "head.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(WeightsError, match=message):
            load_head(tmp_path / "head")
    (tmp_path / "head.json").write_text(json.dumps(description))
    (tmp_path / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_head(tmp_path / "head")

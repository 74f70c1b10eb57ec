"""Heads: shapes, scikit-learn models as torch modules, and saving without pickle."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC
from torch import nn

from cache.errors import UsageError, WeightsError
from stages.network.graph.pooling import average_and_max
from stages.network.heads.attention_pool import AttentionHead
from stages.network.heads.concat_pool import ConcatHead
from stages.network.heads.cosine import CosineHead
from stages.network.heads.knn import KNNHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.mlp import MLPHead
from stages.network.heads.rbf import RBFHead
from stages.network.heads.registry import build_head
from stages.network.heads.serialization import load_head, save_head

VECTOR_HEADS = ["linear", "mlp", "concat", "cosine"]
MAP_HEADS = ["concat", "attention", "multi_query"]
MAP_SHAPES = [(6, 5, 5), (5, 5, 6), (25, 6)]


@pytest.mark.parametrize("name", VECTOR_HEADS)
def test_heads_return_logits_for_vectors(name):
    assert build_head(name, (12,), 3, {"hidden": 8})(torch.randn(4, 12)).shape == (4, 3)


@pytest.mark.parametrize("shape", MAP_SHAPES)
@pytest.mark.parametrize("name", MAP_HEADS)
def test_heads_return_logits_for_maps_and_tokens(name, shape):
    assert build_head(name, shape, 3, {"hidden": 8})(torch.randn(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize("l2", [False, True])
def test_concat_on_a_map_equals_concat_on_the_row_pooled_to_average_and_maximum(l2):
    maps = torch.randn(4, 6, 5, 5)
    on_maps, on_rows = (ConcatHead(shape, 3, hidden=8, l2=l2).eval() for shape in ((6, 5, 5), (12,)))
    on_rows.load_state_dict(on_maps.state_dict())
    assert torch.equal(on_maps(maps), on_rows(average_and_max(maps, (2, 3))))


def test_concat_has_the_layers_of_its_name():
    layers = [type(layer).__name__ for layer in ConcatHead((12,), 3, dropout=0.5).layers]
    assert layers == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in ConcatHead((12,), 3, dropout=0.5).layers if hasattr(layer, "p")] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("linear", (64,)), ("mlp", (64,)), ("concat", (64,)), ("attention", (9, 64)), ("multi_query", (9, 64))],
)
def test_dropout_is_on_in_training_only(name, shape):
    head = build_head(name, shape, 3, {"dropout": 0.5})
    x = torch.randn(8, *shape)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


def test_one_query_attends_to_all_places_with_several_heads():
    head = AttentionHead((16, 3, 3), 3).eval()
    reference = nn.MultiheadAttention(16, 8, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([torch.eye(16), head.keys_and_values.weight]))
        reference.in_proj_bias.copy_(torch.cat([torch.zeros(16), head.keys_and_values.bias]))
        reference.out_proj.weight.copy_(torch.eye(16))
        maps = torch.randn(4, 16, 3, 3)
        positions = maps.flatten(2).mT
        pooled, weights = reference(head.query.expand(4, 1, 16), positions, positions, average_attn_weights=False)
        assert weights.shape == (4, 8, 1, 9)
        torch.testing.assert_close(head(maps), head.output(head.norm(pooled[:, 0])))
    assert [AttentionHead((channels, 3, 3), 3).heads for channels in (12, 6, 7)] == [4, 2, 1]


def test_attention_sees_the_same_places_in_every_layout():
    maps = torch.randn(4, 6, 5, 5)
    heads = [AttentionHead(shape, 3).eval() for shape in MAP_SHAPES]
    for head in heads[1:]:
        head.load_state_dict(heads[0].state_dict())
    expected = heads[0](maps)
    torch.testing.assert_close(heads[1](maps.permute(0, 2, 3, 1)), expected)
    torch.testing.assert_close(heads[2](maps.flatten(2).mT), expected)


def test_vectors_are_refused_by_attention_with_the_pooling_that_fits():
    with pytest.raises(UsageError, match=r"`head` attention.*vectors of shape \[12\].*`pool` none.*`cut` below"):
        build_head("attention", (12,), 3)


def test_cosine_scores_by_direction_alone():
    head, x = CosineHead((12,), 3), torch.randn(4, 12)
    logits = head(x)
    torch.testing.assert_close(head(1000 * x), logits)
    assert logits.abs().max() <= 16
    torch.testing.assert_close(head(7 * head.weight.detach()).diagonal(), torch.full((3,), 16.0))
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [1.0], [10.0]]))
        torch.testing.assert_close(head(x), logits)
        head.log_scale.add_(math.log(2))
        torch.testing.assert_close(head(x), 2 * logits)


@pytest.mark.parametrize("name", ["linear", "mlp", "concat"])
def test_l2_gives_vectors_unit_length_before_anything_else(name):
    head, plain = (build_head(name, (12,), 3, {"hidden": 8, "l2": l2}).eval() for l2 in (True, False))
    plain.load_state_dict(head.state_dict())
    x = torch.randn(4, 12)
    assert torch.equal(head(x), plain(nn.functional.normalize(x)))
    torch.testing.assert_close(head(1000 * x), head(x))
    assert not torch.allclose(plain(1000 * x), plain(x))


@pytest.mark.parametrize("scaled", [False, True])
def test_models_fitted_on_rows_of_unit_length_take_rows_as_they_are(scaled):
    rows, labels = load_wine(return_X_y=True)
    normalizer, scaler = Normalizer(), StandardScaler(with_mean=scaled, with_std=scaled)
    seen = scaler.fit_transform(normalizer.fit_transform(rows))
    folded = (scaler.mean_, scaler.scale_) if scaled else ()
    linear = LogisticRegression(max_iter=1000).fit(seen, labels)
    head = LinearHead.from_coefficients(linear.coef_, linear.intercept_, *folded, l2=True)
    with torch.no_grad():
        scores = head(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(scores, linear.decision_function(seen), atol=1e-3)

    machine = SVC(gamma=0.5).fit(seen, labels == 1)
    coefficients = np.concatenate([np.zeros_like(machine.dual_coef_), machine.dual_coef_]).T
    kernel = RBFHead.from_support(
        machine.support_vectors_, coefficients, [0.0, machine.intercept_[0]], 0.5, *folded, l2=True
    )
    with torch.no_grad():
        scores = kernel(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], machine.decision_function(seen), atol=2e-3)


@pytest.mark.parametrize("name", ["attention", "multi_query", "top", "package.module:Class"])
def test_l2_is_refused_where_no_vector_is_made(name):
    with pytest.raises(UsageError, match=rf"`head` {name}.*l2"):
        build_head(name, (6, 5, 5), 3, {"l2": True})


@pytest.mark.parametrize("name", ["linear", "mlp", "cosine"])
def test_maps_are_refused_with_the_poolings_and_the_heads_that_fit(name):
    message = rf"`head` {name} takes vectors.*maps.*\[6, 5, 5\].*avg, max or avgmax.*maps: attention, concat, multi_query, top"
    with pytest.raises(UsageError, match=message):
        build_head(name, (6, 5, 5), 3)
    with pytest.raises(UsageError, match="tokens"):
        build_head(name, (25, 6), 3)


def test_stored_rows_must_be_vectors_too():
    with pytest.raises(UsageError, match="`head` rbf takes vectors"):
        RBFHead((6, 5, 5), 3, 10)
    with pytest.raises(UsageError, match="`head` knn takes vectors"):
        KNNHead.from_rows(np.zeros((10, 25, 6)), np.zeros(10, dtype=int), 3, 2)


def test_unknown_heads_and_rows_are_refused():
    with pytest.raises(
        UsageError, match=r"`head` concatt: there is no such head\. Did you mean 'concat'.*package.module:Class"
    ):
        build_head("concatt", (6,), 3)
    for name in MAP_HEADS:
        with pytest.raises(UsageError, match=rf"`head` {name} .*not rows of shape"):
            build_head(name, (2, 3, 4), 3)


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
    head = RBFHead.from_support(machine.support_vectors_, coefficients, bias, 0.05, scaler.mean_, scaler.scale_)
    save_head(tmp_path / "head", head, {})
    scores = load_head(tmp_path / "head")[0](torch.from_numpy(rows).float()).detach()
    expected = machine.decision_function(scaler.transform(rows))
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "l2"),
    [
        ("linear", (12,), False),
        ("linear", (12,), True),
        ("mlp", (12,), True),
        ("concat", (6, 5, 5), False),
        ("concat", (12,), True),
        ("cosine", (12,), False),
        *((name, shape, False) for name in ("attention", "multi_query") for shape in MAP_SHAPES),
    ],
)
def test_saved_heads_come_back_the_same(tmp_path, name, shape, l2):
    head = build_head(name, shape, 3, {"hidden": 8, "dropout": 0.25, "l2": l2})
    head.train()(torch.randn(4, *shape))
    save_head(tmp_path / "run" / "head.safetensors", head, {"classes": ["a", "b", "c"], "C": 0.1})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"head.safetensors", "head.json"}
    loaded, metadata = load_head(tmp_path / "run" / "head")
    x = torch.randn(4, *shape)
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.config == head.config
    assert metadata == {"classes": ["a", "b", "c"], "C": 0.1}


@pytest.mark.parametrize("l2", [False, True])
def test_saved_kernel_heads_come_back_the_same(tmp_path, l2):
    random = np.random.default_rng(0)
    head = RBFHead.from_support(
        random.normal(size=(7, 12)), random.normal(size=(7, 3)), [0, 1, 2], 0.1, np.ones(12), l2=l2
    )
    save_head(tmp_path / "head", head, {})
    loaded, x = load_head(tmp_path / "head")[0], torch.randn(4, 12)
    assert torch.equal(loaded(x), head(x))
    assert loaded.config == head.config


@pytest.mark.parametrize("head", [LinearHead((12,), 3), ConcatHead((12,), 3), RBFHead((12,), 3, 7)])
def test_heads_saved_before_there_was_l2_still_load(tmp_path, head):
    save_head(tmp_path / "head", head, {})
    description = json.loads((tmp_path / "head.json").read_text())
    assert description["config"].pop("l2") is False
    (tmp_path / "head.json").write_text(json.dumps(description))
    x = torch.randn(4, 12)
    assert torch.equal(load_head(tmp_path / "head")[0](x), head.eval()(x))


@pytest.mark.parametrize(
    "head",
    [
        LinearHead((12,), 3),
        MLPHead((12,), 3, 8),
        ConcatHead((12,), 3),
        CosineHead((12,), 3),
        AttentionHead((12, 2, 2), 3),
        RBFHead((12,), 3, 7),
        KNNHead((12,), 3, 7, 2),
    ],
    ids=lambda head: head.config["head"],
)
def test_heads_of_version_1_whose_width_was_called_num_classes_still_load(tmp_path, head):
    save_head(tmp_path / "head", head, {})
    description = json.loads((tmp_path / "head.json").read_text())
    assert (description["version"], description["config"]["out_features"]) == (2, 3)
    description |= {"version": 1}
    description["config"]["num_classes"] = description["config"].pop("out_features")
    (tmp_path / "head.json").write_text(json.dumps(description))
    loaded, x = load_head(tmp_path / "head")[0], torch.randn(4, *head.config["row_shape"])
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.config == head.config


def test_heads_that_cannot_be_loaded_are_messages(tmp_path):
    with pytest.raises(WeightsError, match=r"head\.json .*cannot be read"):
        load_head(tmp_path / "head")
    save_head(tmp_path / "head", LinearHead((4,), 2), {})
    description = json.loads((tmp_path / "head.json").read_text())
    for change, message in (
        ({"version": 3}, "version 3, and this Cutonce reads versions up to 2"),
        ({"version": [1]}, r"version \[1\], and this"),
        ({"format": "other"}, "does not describe a head"),
        ({"config": {**description["config"], "out_features": 3}}, "does not hold the head"),
        ({"config": {**description["config"], "layers": 3}}, "does not hold the head"),
        ({"config": {}}, "does not hold the head"),
        ({"config": {**description["config"], "head": "unknown"}}, "not known here.*unknown"),
    ):
        (tmp_path / "head.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(WeightsError, match=message):
            load_head(tmp_path / "head")
    (tmp_path / "head.json").write_text(json.dumps(description))
    (tmp_path / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_head(tmp_path / "head")

"""A linear head, and what it becomes of scikit-learn's models."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from cache.errors import UsageError
from stages.network.heads.linear import LinearHead


def rows_and_labels(classes):
    numbers = np.random.default_rng(0)
    labels = np.arange(60) % classes
    return numbers.normal(size=(60, 5)) * [1, 10, 0.1, 5, 2] + labels[:, None], labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("l2", [False, True])
def test_a_model_of_scikit_learn_and_the_scaler_before_it_become_one_layer(classes, l2):
    rows, labels = rows_and_labels(classes)
    model = make_pipeline(*[Normalizer()] * l2, StandardScaler(), LogisticRegression()).fit(rows, labels)
    scaler, regression = model[-2:]
    head = LinearHead.from_coefficients(
        regression.coef_, regression.intercept_, scaler.mean_, scaler.scale_, l2=l2
    ).eval()
    with torch.no_grad():
        probabilities = head(torch.from_numpy(rows).float()).softmax(dim=1)
    assert np.allclose(probabilities.numpy(), model.predict_proba(rows), atol=1e-5)


def test_rows_are_dropped_out_in_training_alone():
    head = LinearHead((50,), 2, dropout=0.5)
    rows = torch.ones(1, 50)
    torch.testing.assert_close(head.eval()(rows), head.output(rows))
    assert not torch.equal(head.train()(rows), head(rows))


def test_a_length_has_no_effect_where_rows_are_of_unit_length():
    head = LinearHead((4,), 3, l2=True).eval()
    rows = torch.randn(2, 4)
    torch.testing.assert_close(head(rows), head(7 * rows))


@pytest.mark.parametrize(("row_shape", "words"), [((8, 3, 3), "maps of shape"), ((9, 8), "tokens of shape")])
def test_only_vectors_are_taken(row_shape, words):
    with pytest.raises(UsageError, match=rf"`head` linear takes vectors.*{words}.*`pool` avg"):
        LinearHead(row_shape, 3)

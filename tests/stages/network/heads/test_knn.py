"""The nearest-neighbour head: scikit-learn's votes, in bounded memory."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch.utils._python_dispatch import TorchDispatchMode

from cache.errors import UsageError
from stages.network.heads.knn import KNNHead
from stages.network.heads.serialization import load_head, save_head


def reference(rows, labels, k):
    """A weight of exp(similarity / 0.07) for each neighbour; scikit-learn gives distances, 1 - similarity."""
    return KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)).fit(
        rows, labels
    )


@pytest.mark.parametrize("k", [1, 7, 50])
def test_votes_are_those_of_scikit_learn(k):
    rows, labels = load_digits(return_X_y=True)
    rows = rows + np.random.default_rng(0).normal(size=rows.shape)
    train, new = slice(0, 1200), slice(1200, None)
    head = KNNHead.from_rows(rows[train], labels[train], 10, k)
    model = reference(rows[train], labels[train], k)
    distances = model.kneighbors(rows[new], k + 1)[0]
    clear = distances[:, k] - distances[:, k - 1] > 1e-6  # in float32 another row may come k-th where two are as near
    assert clear.mean() > 0.98
    with torch.no_grad():
        logits = head(torch.from_numpy(rows[new][clear]).float())
    np.testing.assert_allclose(logits.softmax(1).numpy(), model.predict_proba(rows[new][clear]), atol=1e-4)
    assert (logits.argmax(1).numpy() == model.predict(rows[new][clear])).all()
    assert logits.isfinite().all()


class LargestTensor(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        made = output if isinstance(output, tuple | list) else [output]
        self.numbers = max([self.numbers, *(value.numel() for value in made if isinstance(value, torch.Tensor))])
        return output


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_stored_rows_are_compared_in_parts_and_nothing_is_lost(dtype):
    random = np.random.default_rng(0)
    stored = random.normal(size=(20_000, 32)).astype(dtype)
    labels = random.integers(10, size=len(stored))
    head = KNNHead.from_rows(stored, labels, 10, 20)
    assert head.support.dtype == torch.from_numpy(stored).dtype
    rows = torch.from_numpy(random.normal(size=(64, 32))).float()
    with torch.no_grad(), LargestTensor() as largest:
        shares = head(rows).softmax(1).numpy()
    assert largest.numbers < 64 * len(stored) / 2, "similarities of all rows at once"
    similarity = torch.nn.functional.normalize(rows.double()) @ head.support.double().T
    weights, nearest = similarity.div(0.07).exp().topk(20)
    expected = [
        np.bincount(labels[at], weight, 10) for at, weight in zip(nearest.numpy(), weights.numpy(), strict=True)
    ]
    np.testing.assert_allclose(shares, expected / weights.sum(1, keepdim=True).numpy(), atol=1e-4)


def test_more_neighbors_than_are_compared_at_once_are_found():
    random = np.random.default_rng(0)
    stored, labels = random.normal(size=(9000, 4)), random.integers(3, size=9000)
    head, rows = KNNHead.from_rows(stored, labels, 3, 8500), torch.from_numpy(random.normal(size=(5, 4))).float()
    with torch.no_grad():
        shares = head(rows).softmax(1).numpy()
    np.testing.assert_allclose(shares, reference(stored, labels, 8500).predict_proba(rows.numpy()), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_saved_neighbors_come_back_the_same(tmp_path, dtype):
    random = np.random.default_rng(0)
    head = KNNHead.from_rows(random.normal(size=(30, 12)).astype(dtype), random.integers(3, size=30), 3, 5)
    save_head(tmp_path / "head", head, {})
    loaded, x = load_head(tmp_path / "head")[0], torch.randn(4, 12)
    assert torch.equal(loaded(x), head.eval()(x))
    assert loaded.config == head.config
    assert loaded.support.dtype == head.support.dtype


def test_it_has_a_parameter_that_can_be_trained():
    head = KNNHead.from_rows(np.random.default_rng(0).normal(size=(30, 12)), np.arange(30) % 3, 3, 5)
    (temperature,) = head.parameters()
    assert temperature.exp().item() == pytest.approx(0.07)
    torch.nn.functional.cross_entropy(head(torch.randn(8, 12)), torch.arange(8) % 3).backward()
    assert temperature.grad.abs() > 0


@pytest.mark.parametrize("k", [0, 31])
def test_neighbors_that_are_not_there_are_refused(k):
    with pytest.raises(UsageError, match=f"`head` knn: {k} neighbours.*1 to 30"):
        KNNHead.from_rows(np.random.default_rng(0).normal(size=(30, 12)), np.arange(30) % 3, 3, k)


@pytest.mark.parametrize("votes_for", ["labels", "values"])
def test_labels_and_numbers_are_the_votes_of_the_neighbors_where_they_are_known(votes_for, tmp_path):
    generator = np.random.default_rng(0)
    rows, targets = generator.normal(size=(90, 6)), generator.normal(size=(90, 3))
    targets = targets if votes_for == "values" else (targets > 0).astype(np.float64)
    targets[:, 2] = np.where(np.arange(90) < 88, np.nan, 1.0)  # of hardly any neighbor, so all rows are asked
    head = KNNHead.from_rows(rows[:80], targets[:80], 3, 7, votes_for)
    outputs = head(torch.from_numpy(rows[80:]).float()).detach()
    means = outputs.sigmoid().numpy() if votes_for == "labels" else outputs.numpy()
    weighted = KNeighborsRegressor(7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    assert np.allclose(means[:, :2], weighted.fit(rows[:80], targets[:80, :2]).predict(rows[80:]), atol=1e-4)
    assert np.allclose(means[:, 2], 0.0 if votes_for == "values" else head.FLOOR)
    targets[::2, 0] = np.nan
    of_some = KNNHead.from_rows(rows[:80], targets[:80], 3, 80, votes_for)(torch.from_numpy(rows[80:]).float()).detach()
    expected = weighted.set_params(n_neighbors=40).fit(rows[1:80:2], targets[1:80:2, 0]).predict(rows[80:])
    assert np.allclose((of_some.sigmoid() if votes_for == "labels" else of_some)[:, 0], expected, atol=1e-4)
    save_head(tmp_path / "head", head, {})
    assert torch.equal(load_head(tmp_path / "head")[0](torch.from_numpy(rows[80:]).float()), outputs)

"""A kernel machine as a module, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC

from stages.network.heads.rbf import RBFHead


@pytest.mark.parametrize("l2", [False, True])
def test_it_decides_as_the_machine_it_was_made_of(l2):
    numbers = np.random.default_rng(0)
    labels = np.arange(60) % 2
    rows = numbers.normal(size=(60, 4)) * [1, 10, 0.1, 5] + labels[:, None]
    seen = normalize(rows) if l2 else rows
    scaler = StandardScaler().fit(seen)
    machine = SVC(gamma=0.3).fit(scaler.transform(seen), labels)
    head = RBFHead.from_support(
        machine.support_vectors_,
        machine.dual_coef_.T,
        machine.intercept_,
        0.3,
        scaler.mean_,
        scaler.scale_,
        l2=l2,
    )
    with torch.no_grad():
        scores = head(torch.from_numpy(rows).float())[:, 0].numpy()
    assert np.allclose(scores, machine.decision_function(scaler.transform(seen)), atol=1e-4)


def test_without_a_scaler_rows_are_taken_as_they_are():
    head = RBFHead.from_support([[0.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0]], [0.5, -0.5], 0.7)
    with torch.no_grad():
        logits = head(torch.tensor([[1.0, 1.0]]))
    near, far = np.exp(-0.7 * 1.0), np.exp(-0.7 * 2.0)
    assert logits.numpy() == pytest.approx(np.array([[2 * far + 0.5, 3 * near - 0.5]]), rel=1e-5)


def test_distances_in_a_graph_are_those_of_cdist(monkeypatch):
    torch.manual_seed(0)
    head = RBFHead((7,), 2, 30)
    head.load_state_dict({name: torch.rand_like(tensor) + 0.5 for name, tensor in head.state_dict().items()})
    rows = torch.randn(4, 7)
    expected = head(rows)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(head(rows), expected, atol=1e-5)

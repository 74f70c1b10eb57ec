"""Recurrent heads as graphs have them, without packed sequences."""

import pytest
import torch

from stages.network.heads.recurrent import GRUHead, LSTMHead


@pytest.mark.parametrize("kind", [GRUHead, LSTMHead])
def test_both_ways_without_packing_is_what_packing_gives(kind, monkeypatch):
    torch.manual_seed(0)
    head = kind((4, 9), 3, width=8).eval()
    bags = torch.randn(5, 4, 9)
    bags[..., -1] = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
    packed = head(bags)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(head(bags), packed, atol=1e-6)

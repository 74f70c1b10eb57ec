"""The k largest block by block are the k largest of all at once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.runtime.topk import merge_topk


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 60),
    k=st.integers(1, 70),
    at_once=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_blocks_give_what_all_values_at_once_give(rows, columns, k, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack(
        [torch.randperm(columns, generator=generator) for _ in range(rows)]
    ).float()  # no two are equal
    best, indices = values.new_empty(rows, 0), torch.empty(rows, 0, dtype=torch.int64)
    for first in range(0, columns, at_once):
        best, indices = merge_topk(best, indices, values[:, first : first + at_once], first, k)
    expected = values.topk(min(k, columns), dim=1)
    assert torch.equal(best, expected.values)
    assert torch.equal(indices, expected.indices)

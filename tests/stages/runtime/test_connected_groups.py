import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from stages.runtime.connected_groups import connected_groups


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_the_groups_are_those_that_merging_pair_by_pair_gives(nodes_and_pairs):
    nodes, pairs = nodes_and_pairs
    merged = DisjointSet(range(nodes))
    for first, second in pairs:
        merged.merge(first, second)
    numbers = connected_groups(pairs, nodes)
    roots = [merged[node] for node in range(nodes)]
    order = list(dict.fromkeys(roots))
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [order.index(root) for root in roots]

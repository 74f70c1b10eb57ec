import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tasks.strata import interleave

strata = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@given(strata, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_wherever_it_is_cut_each_stratum_has_its_share_in_front_to_half_a_sample(numbers, random):
    numbers = np.array(numbers)
    given_order = list(range(len(numbers)))
    random.shuffle(given_order)
    order = interleave(numbers, given_order)
    assert sorted(order) == sorted(given_order)
    sizes = np.bincount(numbers, minlength=6)
    present = sizes > 0
    for cut in range(len(order) + 1):
        counts = np.bincount(numbers[order[:cut]], minlength=6)[present]
        # one share x of the list, from which no stratum is further than half a sample
        assert ((counts - 0.5) / sizes[present]).max() <= ((counts + 0.5) / sizes[present]).min() + 1e-12


@given(strata, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_members_of_a_stratum_keep_the_order_they_are_given_in(numbers, random):
    numbers = np.array(numbers)
    given_order = np.array(random.sample(range(len(numbers)), len(numbers)))
    order = interleave(numbers, given_order)
    for stratum in np.unique(numbers):
        assert np.array_equal(order[numbers[order] == stratum], given_order[numbers[given_order] == stratum])


@given(strata, st.integers(1, 4))
@settings(deadline=None)
def test_the_first_of_every_stratum_come_before_all_others(numbers, first):
    numbers = np.array(numbers)
    order = interleave(numbers, first=first)
    asked = np.minimum(np.bincount(numbers, minlength=6), first)
    assert np.array_equal(np.bincount(numbers[order[: asked.sum()]], minlength=6), asked)
    turns = [int((numbers[order[:at]] == numbers[order[at]]).sum()) for at in range(asked.sum())]
    assert turns == sorted(turns)


def test_strata_may_be_words_and_ties_are_broken_as_asked():
    assert interleave(["b", "a", "b", "a"]).tolist() == [0, 1, 2, 3]
    assert interleave(["b", "a", "b", "a"], ties=[3, 2, 1, 0]).tolist() == [1, 0, 3, 2]
    assert interleave(["b", "a", "b", "a"], [3, 2, 1, 0]).tolist() == [3, 2, 1, 0]
    assert interleave(["a", "a", "a", "b"]).tolist() == [0, 1, 3, 2]


def test_no_samples_are_no_order():
    assert interleave(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_two_strata_of_one_size_alternate(seed):
    numbers = np.random.default_rng(seed).permutation(np.repeat([0, 1], 50))
    ordered = numbers[interleave(numbers)]
    assert (ordered[0::2] + ordered[1::2] == 1).all()

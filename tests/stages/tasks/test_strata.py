import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tasks.strata import interleave, multi_label_folds

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


def memberships(seed, n, strata):
    random = np.random.default_rng(seed)
    return random.random((n, strata)) < random.beta(0.5, 4, strata)


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(8, 60), st.integers(0, 6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_each_sample_is_left_out_once_a_group_as_a_whole_and_no_fold_is_empty(seed, n_folds, n, strata, grouped):
    groups = np.random.default_rng(seed).integers(n_folds, 20, n) if grouped else np.arange(n)
    groups[:n_folds] = np.arange(n_folds)
    folds = multi_label_folds(memberships(seed, n, strata), n_folds, seed, groups if grouped else None)
    assert len(folds) == n_folds
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(n))
    for fitted, held in folds:
        assert len(held)
        assert sorted([*fitted, *held]) == list(range(n))
        assert not set(groups[fitted]) & set(groups[held])


@pytest.mark.parametrize("seed", range(3))
def test_each_fold_has_its_share_of_every_stratum_and_of_the_samples(seed):
    has = memberships(seed, 600, 8)
    folds = multi_label_folds(has, 5, seed)
    shares = np.array([has[held].sum(axis=0) for _, held in folds]) - has.sum(axis=0) / 5
    assert np.abs(shares[:, has.sum(axis=0) < 100]).max() < 2
    assert np.abs(shares).mean() < 1
    assert max(len(held) for _, held in folds) - min(len(held) for _, held in folds) <= 2


def test_a_stratum_of_as_many_samples_as_folds_is_in_each():
    has = memberships(0, 300, 12)
    has[:, 3] = np.isin(np.arange(300), [5, 6, 7, 200])
    assert [has[held, 3].sum() for _, held in multi_label_folds(has, 4, 0)] == [1, 1, 1, 1]


def test_folds_of_groups_are_nearer_to_their_shares_than_groups_at_random():
    groups = np.random.default_rng(0).integers(60, size=1500)
    has = (np.random.default_rng(1).random((60, 10)) < 0.3)[groups]  # as patients differ from each other

    def deviation(held_rows):
        return np.mean([np.abs(has[held].sum(axis=0) / has.sum(axis=0) - 0.2) for held in held_rows])

    ours = deviation([held for _, held in multi_label_folds(has, 5, 0, [f"patient {group}" for group in groups])])
    assert ours < 0.5 * deviation([np.flatnonzero(groups % 5 == number) for number in range(5)])


def test_folds_follow_the_seed_alone():
    has = memberships(0, 60, 5)
    once, again, other = (multi_label_folds(has, 3, seed) for seed in (4, 4, 5))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(once, other, strict=True))


def test_more_folds_than_samples_or_groups_are_refused():
    with pytest.raises(ValueError, match="3 samples, or groups, are not dealt out to 4 folds"):
        multi_label_folds(np.ones((3, 1), dtype=bool), 4, 0)
    with pytest.raises(ValueError, match="2 samples, or groups"):
        multi_label_folds(np.ones((4, 1), dtype=bool), 3, 0, ["a", "a", "b", "b"])

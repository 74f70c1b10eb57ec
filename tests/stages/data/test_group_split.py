"""Which images are put aside: shares of classes, whole groups, and a choice that hangs on nothing but keys and seed."""

import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.group_split import split_units, stratified_group_split


def put_aside(keys, labels, groups=(), *, strata=None, share=0.25, min_kept=1, seed=0):
    units = split_units(keys, labels, strata or [""] * len(keys), groups, seed)
    return stratified_group_split(units, share, min_kept)


def keys_of(count):
    return [f"{index:032x}" for index in range(count)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0.05, 0.6), st.integers(0, 9))
def test_of_each_class_its_share_is_put_aside_to_the_image(sizes, share, seed):
    labels = [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]
    chosen = put_aside(keys_of(len(labels)), labels, share=share, seed=seed)
    counts = Counter(label for key, label in zip(keys_of(len(labels)), labels, strict=True) if key in chosen)
    for number, size in enumerate(sizes):
        most = size - min(1, max(size - 1, 1))  # one is kept where there are two
        assert counts[f"class {number}"] == min(max(round(share * size), 1), most)


def test_a_class_of_one_image_stays_and_of_two_one_is_put_aside():
    keys = keys_of(3)
    chosen = put_aside(keys, ["alone", "pair", "pair"], share=0.9)
    assert keys[0] not in chosen
    assert len(chosen & set(keys[1:])) == 1


def test_of_each_stratum_of_a_class_about_as_much_is_put_aside():
    keys, strata = keys_of(80), ["day"] * 60 + ["night"] * 20
    chosen = put_aside(keys, ["a"] * 80, strata=strata)
    assert Counter(stratum for key, stratum in zip(keys, strata, strict=True) if key in chosen) == {
        "day": 15,
        "night": 5,
    }


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_of_each_label_its_share_is_put_aside_where_images_have_several(seed, in_groups):
    chance = random.Random(seed)
    labels = [
        tuple(name for name, share in (("a", 0.02), ("b", 0.1), ("c", 0.4), ("d", 0.7)) if chance.random() < share)
        for _ in range(400)
    ]
    keys, groups = keys_of(400), [f"g{index // 5}" for index in range(400)] if in_groups else ()
    chosen = put_aside(keys, labels, groups, seed=seed)
    totals = Counter(name for names in labels for name in names or ("",))
    counts = Counter(name for key, names in zip(keys, labels, strict=True) if key in chosen for name in names or ("",))
    allowed = 0.06 if in_groups else 0.0
    assert all(abs(counts[name] - round(0.25 * totals[name])) <= allowed * totals[name] + 1 for name in totals)
    order = chance.sample(range(400), 400)
    shuffled = ([sequence[index] for index in order] if sequence else () for sequence in (keys, labels, groups))
    assert put_aside(*shuffled, seed=seed) == chosen


def test_a_label_of_one_image_is_learned():
    keys = keys_of(41)
    chosen = put_aside(keys, [("rare", "common"), *[("common",)] * 20, *[()] * 20], share=0.5)
    assert keys[0] not in chosen
    assert len(chosen) == 20


groupings = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", *"tuvwxyz"])), min_size=6, max_size=60)


@settings(max_examples=50, deadline=None)
@given(groupings, st.integers(0, 9))
def test_no_group_is_torn_apart_and_each_class_keeps_and_gives_something_where_it_can(samples, seed):
    keys, labels, groups = keys_of(len(samples)), *map(list, zip(*samples, strict=True))
    chosen = put_aside(keys, labels, groups, seed=seed)
    for group in set(groups) - {""}:
        assert len({key in chosen for key, of in zip(keys, groups, strict=True) if of == group}) == 1
    for label in set(labels):
        units = {group or key for key, of, group in zip(keys, labels, groups, strict=True) if of == label}
        given_away = {
            group or key for key, of, group in zip(keys, labels, groups, strict=True) if of == label and key in chosen
        }
        assert len(given_away) <= max(len(units) - 1, 0)


def test_groups_that_share_an_image_are_one():
    keys, groups = ["k1", "k2", "k2", "k3", "k4"], ["first", "first", "second", "second", ""]
    units = split_units(keys, ["a"] * 5, [""] * 5, groups, 0)
    assert sorted([image.key for image in unit.images] for unit in units) == [["k1", "k2", "k3"], ["k4"]]


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 9))
def test_neither_the_order_of_samples_nor_the_names_of_groups_play_a_part(order, seed):
    keys, labels, groups = keys_of(12), list("aabbccaabbcc"), list("ttuuvv") + [""] * 6
    chosen = put_aside(keys, labels, groups, seed=seed)
    renamed = [group and f"patient {ord(group) % 7}" for group in groups]
    shuffled = ([column[index] for index in order] for column in (keys, labels, renamed))
    assert put_aside(*shuffled, seed=seed) == chosen


def test_another_seed_chooses_other_images_and_the_same_one_the_same():
    keys, labels = keys_of(40), ["a"] * 40
    assert put_aside(keys, labels, seed=1) == put_aside(keys, labels, seed=1) != put_aside(keys, labels, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_with_groups_the_shares_are_as_near_as_the_best_of_all_choices(seed):
    """Eight groups of unlike sizes and classes: what all 256 choices can reach is the reference."""
    classes = ["aaab", "aab", "bbb", "ab", "aaaaaa", "bbbbb", "ba", "bab"]
    labels = [label for group in classes for label in group]
    groups = [str(number) for number, group in enumerate(classes) for _ in group]
    keys = keys_of(len(labels))
    total = Counter(labels)
    wanted = {label: round(0.25 * count) for label, count in total.items()}

    def off(counts):
        return sum(abs(counts[label] - wanted[label]) / total[label] + (not counts[label]) for label in total)

    best = min(
        off(Counter("".join(chosen))) for size in range(1, len(classes)) for chosen in combinations(classes, size)
    )
    chosen = put_aside(keys, labels, groups, seed=seed)
    reached = off(Counter(label for key, label in zip(keys, labels, strict=True) if key in chosen))
    assert reached <= best + 0.1

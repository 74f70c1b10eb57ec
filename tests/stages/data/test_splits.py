import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.data.listing import Listing
from stages.data.splits import check_shares, complete_splits
from stages.options import Data

OPTIONS = Data("somewhere")
SPLITS = ("train", "val", "test")


def listing_of(rows: list[tuple[str, str, str, str]]) -> tuple[Listing, list[str]]:
    """Return the listing, and the keys, of rows (image, label, stratum, split); equal images are copies."""
    images, labels, strata, splits = (list(column) for column in zip(*rows, strict=True))
    locations = [
        f"/data/{label}/{image}-{index}.jpg" for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    keys = [key_of_bytes(image.encode()) for image in images]
    return Listing(locations, labels, tuple(sorted(set(labels))), splits, strata), keys


def unsplit(counts: dict[str, int]) -> list[tuple[str, str, str, str]]:
    return [(f"{label}{index}", label, "", "") for label, count in counts.items() for index in range(count)]


def split_of_each_image(rows, options=OPTIONS, seed=0) -> dict[str, str]:
    listing, keys = listing_of(rows)
    splits, _ = complete_splits(listing, keys, options, seed)
    found = defaultdict(set)
    for (image, *_), split in zip(rows, splits, strict=True):
        found[image].add(split)
    assert all(len(some) == 1 for some in found.values()), "an image stands in two splits"
    return {image: some.pop() for image, some in found.items()}


@st.composite
def samples(draw, smallest=3):
    """Rows of two to four classes of distinct images, some of them several times, in any order."""
    rows = []
    for label in draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True)):
        for index in range(draw(st.integers(smallest, 40))):
            stratum = draw(st.sampled_from(["mono", "poly"]))
            rows += [(f"{label}{index}", label, stratum, "")] * draw(st.sampled_from([1, 1, 1, 2, 3]))
    return draw(st.permutations(rows))


@given(rows=samples(), seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_order_of_the_files_changes_nothing(rows, seed, order):
    other = list(rows)
    order.shuffle(other)
    assert split_of_each_image(rows, seed=seed) == split_of_each_image(other, seed=seed)


@given(rows=samples())
def test_moving_and_renaming_files_changes_nothing(rows):
    listing, keys = listing_of(rows)
    moved = Listing(
        [f"elsewhere/{i}" for i in range(len(rows))],
        listing.labels,
        listing.class_names,
        listing.splits,
        listing.strata,
    )
    assert complete_splits(listing, keys, OPTIONS, 0)[0] == complete_splits(moved, keys, OPTIONS, 0)[0]


@given(rows=samples(), test=st.floats(0.05, 0.9), val=st.floats(0.05, 0.9), seed=st.integers(0, 3))
def test_shares_are_kept_in_each_class_to_within_rounding(rows, test, val, seed):
    splits = split_of_each_image(rows, Data("somewhere", test=test, val=val), seed)
    for label in {label for _, label, _, _ in rows}:
        counts = Counter(split for image, split in splits.items() if image[0] == label)
        images = counts.total()
        wanted = round(test * images)
        assert counts["test"] == min(max(wanted, 1), images - 2)
        left = images - counts["test"]
        assert counts["val"] == min(max(round(val * left), 1), left - 1)


@given(rows=samples())
def test_every_class_of_three_images_is_in_every_split(rows):
    splits = split_of_each_image(rows)
    for label in {label for _, label, _, _ in rows}:
        assert {split for image, split in splits.items() if image[0] == label} == set(SPLITS)


@given(rows=samples(smallest=8), seed=st.integers(0, 3))
def test_each_stratum_gives_its_share(rows, seed):
    splits = split_of_each_image(rows, seed=seed)
    stratum_of = {image: stratum for image, _, stratum, _ in rows}
    for label in {label for _, label, _, _ in rows}:
        members = [image for image in splits if image[0] == label]
        share = sum(splits[image] == "test" for image in members) / len(members)
        for stratum in ("mono", "poly"):
            some = [image for image in members if stratum_of[image] == stratum]
            assert abs(sum(splits[image] == "test" for image in some) - share * len(some)) <= 1.01


@given(rows=samples(smallest=1))
def test_small_classes_train_first(rows):
    """Whatever their size, the split either has training images of every class, or is refused."""
    try:
        splits = split_of_each_image(rows)
    except DataError:
        assert all(
            count < 3 for count in Counter(label for label in {image: image[0] for image, *_ in rows}.values()).values()
        )
        return
    for label in {label for _, label, _, _ in rows}:
        assert "train" in {split for image, split in splits.items() if image[0] == label}


def test_another_seed_is_another_split_of_the_same_size():
    rows = unsplit({"a": 60, "b": 60})
    first, second = (split_of_each_image(rows, seed=seed) for seed in (0, 1))
    assert first != second
    assert Counter(first.values()) == Counter(second.values())


def test_a_new_image_moves_few_of_the_others():
    rows = unsplit({"a": 100, "b": 100})
    before, after = split_of_each_image(rows), split_of_each_image([*rows, ("a100", "a", "", "")])
    assert sum(before[image] != after[image] for image in before) <= 2


def test_validation_is_independent_of_the_test_share_of_other_classes():
    before = split_of_each_image(unsplit({"a": 30, "b": 30}))
    after = split_of_each_image(unsplit({"a": 30, "b": 99}))
    assert {i: s for i, s in before.items() if i[0] == "a"} == {i: s for i, s in after.items() if i[0] == "a"}


GIVEN = [(f"{label}{split}{i}", label, "", split) for label in "ab" for split in SPLITS for i in range(8)]


def test_given_splits_are_respected():
    listing, keys = listing_of(GIVEN)
    splits, notes = complete_splits(listing, keys, OPTIONS, 0)
    assert splits == listing.splits
    assert notes == []


def test_validation_is_taken_out_of_train_where_train_and_test_are_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "val"])
    splits, notes = complete_splits(listing, keys, OPTIONS, 0)
    for given_split, split in zip(listing.splits, splits, strict=True):
        assert split in {"train": ("train", "val"), "test": ("test",)}[given_split]
    assert Counter(splits) == {"train": 12, "val": 4, "test": 16}
    assert "validation split made here: 20%" in notes[0]


def test_the_given_validation_is_the_test_split_where_train_and_val_are_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "test"])
    splits, notes = complete_splits(listing, keys, OPTIONS, 0)
    for given_split, split in zip(listing.splits, splits, strict=True):
        assert split in {"train": ("train", "val"), "val": ("test",)}[given_split]
    assert Counter(splits) == {"train": 12, "val": 4, "test": 16}
    assert "the given validation split is used as the test split" in notes[0]


def test_both_are_made_where_only_train_is_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] == "train"])
    splits, _ = complete_splits(listing, keys, OPTIONS, 0)
    assert Counter(splits) == {"train": 10, "val": 2, "test": 4}


def test_without_a_training_split_it_is_refused():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "train"])
    with pytest.raises(DataError, match="no training split, only val and test"):
        complete_splits(listing, keys, OPTIONS, 0)


def test_leakage_between_given_splits_is_named_and_refused():
    rows = [*GIVEN, ("atrain0", "a", "", "test")]
    listing, keys = listing_of(rows)
    with pytest.raises(DataError, match=r"the same image is in two of the given splits \(1\)") as caught:
        complete_splits(listing, keys, OPTIONS, 0)
    assert "/data/a/atrain0-0.jpg (train)" in str(caught.value)
    assert "/data/a/atrain0-48.jpg (test)" in str(caught.value)
    assert "--allow-leakage" in str(caught.value)


def test_allowed_leakage_is_a_note_and_keeps_the_given_splits():
    listing, keys = listing_of([*GIVEN, ("atrain0", "a", "", "test")])
    splits, notes = complete_splits(listing, keys, Data("somewhere", allow_leakage=True), 0)
    assert splits == listing.splits
    assert "/data/a/atrain0-0.jpg (train)" in notes[0]


def test_copies_within_one_given_split_are_no_leakage_and_stay_together():
    rows = [(f"{label}{i}", label, "", split) for label in "ab" for split in ("train", "test") for i in range(9)]
    rows = [(f"{split}{image}", label, stratum, split) for image, label, stratum, split in rows for _ in range(3)]
    split_of_each_image(rows)


def test_an_image_with_two_labels_is_named_and_goes_one_way():
    rows = [*unsplit({"a": 9, "b": 9}), ("a3", "b", "", "")]
    listing, keys = listing_of(rows)
    splits, notes = complete_splits(listing, keys, OPTIONS, 0)
    assert splits[3] == splits[18]
    assert any("/data/a/a3-3.jpg (a) = /data/b/a3-18.jpg (b)" in note for note in notes)


def test_only_ten_files_are_named():
    rows = [*GIVEN, *((image, label, "", "test") for image, label, _, split in GIVEN if split == "train")]
    listing, keys = listing_of(rows)
    with pytest.raises(DataError, match="and 6 more") as caught:
        complete_splits(listing, keys, OPTIONS, 0)
    assert str(caught.value).count(" = ") == 10


def test_a_class_without_training_images_is_refused():
    listing, keys = listing_of([*GIVEN, ("c", "c", "", "test")])
    with pytest.raises(DataError, match="no training images of c"):
        complete_splits(listing, keys, OPTIONS, 0)


def test_too_few_images_for_every_split_are_refused():
    listing, keys = listing_of(unsplit({"a": 1, "b": 1}))
    with pytest.raises(DataError, match="too few images to make a val and a test split"):
        complete_splits(listing, keys, OPTIONS, 0)


def test_a_class_that_is_not_in_every_split_is_noted():
    listing, keys = listing_of(unsplit({"a": 9, "b": 2}))
    _, notes = complete_splits(listing, keys, OPTIONS, 0)
    assert "no val image of class b" in notes


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 25.0, float("nan")])
@pytest.mark.parametrize("name", ["test", "val"])
def test_shares_outside_0_and_1_are_refused(name, share):
    with pytest.raises(UsageError, match=f"--{name}"):
        check_shares(Data("somewhere", **{name: share}))


def test_splits_stay_the_same_over_versions():
    """A split is part of a published result: it must not change with a new version or another machine."""
    rows = unsplit({"a": 8, "b": 5})
    random.Random(1).shuffle(rows)
    splits = split_of_each_image(rows)
    assert sorted(image for image, split in splits.items() if split == "test") == ["a6", "a7", "b1"]
    assert sorted(image for image, split in splits.items() if split == "val") == ["a4", "b3"]

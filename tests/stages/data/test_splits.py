import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import load_targets
from stages.data.sources.records import SourceRecords
from stages.data.splits import Strata, check_shares, make_missing_splits, strata_of
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

OPTIONS = DataConfig("somewhere")
SPLITS = ("train", "val", "test")


def listing_of(rows: list[tuple[str, str, str, str]]) -> tuple[SourceRecords, list[str]]:
    """Return the listing, and the keys, of rows (image, label, stratum, split); equal images are copies."""
    images, labels, strata, splits = (list(column) for column in zip(*rows, strict=True))
    locations = [
        f"/data/{label}/{image}-{index}.jpg" for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    keys = [key_of_bytes(image.encode()) for image in images]
    return SourceRecords(locations, labels, tuple(sorted(set(labels))), splits, strata), keys


def classes_of(listing: SourceRecords) -> Strata:
    return Strata(listing.targets, "class", listing.class_names)


def unsplit(counts: dict[str, int]) -> list[tuple[str, str, str, str]]:
    return [(f"{label}{index}", label, "", "") for label, count in counts.items() for index in range(count)]


def split_of_each_image(rows, options=OPTIONS, seed=0) -> dict[str, str]:
    listing, keys = listing_of(rows)
    splits, _ = make_missing_splits(listing, keys, classes_of(listing), options, seed)
    splits_by_image = defaultdict(set)
    for (image, *_), split in zip(rows, splits, strict=True):
        splits_by_image[image].add(split)
    assert all(len(splits) == 1 for splits in splits_by_image.values()), "an image stands in two splits"
    return {image: splits.pop() for image, splits in splits_by_image.items()}


chances = st.builds(random.Random, st.integers(0, 2**32 - 1))
"""For what stands in each row: drawn row by row, it would take hypothesis longer than all that is tested."""


@st.composite
def samples(draw, smallest=3):
    """Rows of two to four classes of distinct images, some of them several times, in any order."""
    rows, chance = [], draw(chances)
    for label in draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True)):
        for index in range(draw(st.integers(smallest, 40))):
            stratum = chance.choice(["mono", "poly"])
            rows += [(f"{label}{index}", label, stratum, "")] * chance.choice([1, 1, 1, 2, 3])
    chance.shuffle(rows)
    return rows


@given(rows=samples(), seed=st.integers(0, 5), order=chances)
def test_order_of_the_files_changes_nothing(rows, seed, order):
    other = list(rows)
    order.shuffle(other)
    assert split_of_each_image(rows, seed=seed) == split_of_each_image(other, seed=seed)


@given(rows=samples())
def test_moving_and_renaming_files_changes_nothing(rows):
    listing, keys = listing_of(rows)
    moved = SourceRecords(
        [f"elsewhere/{i}" for i in range(len(rows))],
        listing.targets,
        listing.class_names,
        listing.splits,
        listing.strata,
    )
    assert (
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)[0]
        == make_missing_splits(moved, keys, classes_of(moved), OPTIONS, 0)[0]
    )


@given(rows=samples(), test=st.floats(0.05, 0.9), val=st.floats(0.05, 0.9), seed=st.integers(0, 3))
def test_shares_are_kept_in_each_class_to_within_rounding(rows, test, val, seed):
    splits = split_of_each_image(rows, DataConfig("somewhere", test_size=test, val_size=val), seed)
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
            in_stratum = [image for image in members if stratum_of[image] == stratum]
            assert abs(sum(splits[image] == "test" for image in in_stratum) - share * len(in_stratum)) <= 1.01


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
    splits, notes = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert splits == listing.splits
    assert notes == []


def test_validation_is_taken_out_of_train_where_train_and_test_are_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "val"])
    splits, notes = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    for given_split, split in zip(listing.splits, splits, strict=True):
        assert split in {"train": ("train", "val"), "test": ("test",)}[given_split]
    assert Counter(splits) == {"train": 12, "val": 4, "test": 16}
    assert "validation split made here: 20%" in notes[0]


def test_the_given_validation_is_the_test_split_where_train_and_val_are_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "test"])
    splits, notes = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    for given_split, split in zip(listing.splits, splits, strict=True):
        assert split in {"train": ("train", "val"), "val": ("test",)}[given_split]
    assert Counter(splits) == {"train": 12, "val": 4, "test": 16}
    assert "the given validation split is used as the test split" in notes[0]


def test_both_are_made_where_only_train_is_given():
    listing, keys = listing_of([row for row in GIVEN if row[3] == "train"])
    splits, _ = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert Counter(splits) == {"train": 10, "val": 2, "test": 4}


def test_without_a_training_split_it_is_refused():
    listing, keys = listing_of([row for row in GIVEN if row[3] != "train"])
    with pytest.raises(DataError, match="no training split, only val and test"):
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)


def test_leakage_between_given_splits_is_named_and_refused():
    rows = [*GIVEN, ("atrain0", "a", "", "test")]
    listing, keys = listing_of(rows)
    with pytest.raises(DataError, match=r"the same image is in two of the given splits \(1\)") as caught:
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert "/data/a/atrain0-0.jpg (train)" in str(caught.value)
    assert "/data/a/atrain0-48.jpg (test)" in str(caught.value)
    assert "`allow_leakage`" in str(caught.value)


def test_allowed_leakage_is_a_note_and_keeps_the_given_splits():
    listing, keys = listing_of([*GIVEN, ("atrain0", "a", "", "test")])
    splits, notes = make_missing_splits(
        listing, keys, classes_of(listing), DataConfig("somewhere", allow_leakage=True), 0
    )
    assert splits == listing.splits
    assert "/data/a/atrain0-0.jpg (train)" in notes[0]


def test_copies_within_one_given_split_are_no_leakage_and_stay_together():
    rows = [(f"{label}{i}", label, "", split) for label in "ab" for split in ("train", "test") for i in range(9)]
    rows = [(f"{split}{image}", label, stratum, split) for image, label, stratum, split in rows for _ in range(3)]
    split_of_each_image(rows)


def test_an_image_with_two_labels_is_named_and_goes_one_way():
    rows = [*unsplit({"a": 9, "b": 9}), ("a3", "b", "", "")]
    listing, keys = listing_of(rows)
    splits, notes = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert splits[3] == splits[18]
    assert any("/data/a/a3-3.jpg (a) = /data/b/a3-18.jpg (b)" in note for note in notes)


def test_only_ten_files_are_named():
    rows = [*GIVEN, *((image, label, "", "test") for image, label, _, split in GIVEN if split == "train")]
    listing, keys = listing_of(rows)
    with pytest.raises(DataError, match="and 6 more") as caught:
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert str(caught.value).count(" = ") == 10


def test_a_class_without_training_images_is_refused():
    listing, keys = listing_of([*GIVEN, ("c", "c", "", "test")])
    with pytest.raises(DataError, match="no training images of c"):
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)


def test_too_few_images_for_every_split_are_refused():
    listing, keys = listing_of(unsplit({"a": 1, "b": 1}))
    with pytest.raises(DataError, match="too few images to make a val and a test split"):
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)


def test_a_class_that_is_not_in_every_split_is_noted():
    listing, keys = listing_of(unsplit({"a": 9, "b": 2}))
    _, notes = make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert "no val image of class b" in notes


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 25.0, float("nan")])
@pytest.mark.parametrize("name", ["test_size", "val_size"])
def test_shares_outside_0_and_1_are_refused(name, share):
    with pytest.raises(UsageError, match=f"`{name}`"):
        check_shares(DataConfig("somewhere", **{name: share}))


def test_splits_stay_the_same_over_versions():
    """A split is part of a published result: it must not change with a new version or another machine."""
    rows = unsplit({"a": 8, "b": 5})
    random.Random(1).shuffle(rows)
    splits = split_of_each_image(rows)
    assert sorted(image for image, split in splits.items() if split == "test") == ["a6", "a7", "b1"]
    assert sorted(image for image, split in splits.items() if split == "val") == ["a4", "b3"]


class Bins:
    """A task whose strata are not its targets: lengths, told apart by whether they are below 100."""

    def strata(self, target):
        return np.asarray(target >= 100, dtype=np.int64)


class Unstratified:
    """A task without strata."""

    def strata(self, target):
        return None


LENGTHS = np.array([*range(60), *range(100, 120)])


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_stratum_is_called_by_the_first_of_its_targets_whatever_the_order(order):
    lengths = LENGTHS[order]
    strata = strata_of(Bins(), lengths, [f"{length:03} mm" for length in lengths])
    assert strata.of_samples == ["000 mm" if length < 100 else "100 mm" for length in lengths]


def test_classes_are_strata_by_their_names():
    names = ["10", "9", "10", "b"]
    task = SingleLabel(["9", "10", "b"])
    assert strata_of(task, load_targets(task, names), names) == Strata(names, "class", ("9", "10", "b"))


@pytest.mark.parametrize("task", [Bins(), Unstratified()])
def test_strata_are_those_of_the_task_and_not_its_targets(task):
    """No target is there twice: with each a stratum of its own there would be nothing to split."""
    rows = [(f"image {length}", f"{length:03} mm", "", "") for length in LENGTHS]
    listing, keys = listing_of(rows)
    splits, notes = make_missing_splits(listing, keys, strata_of(task, LENGTHS, listing.targets), OPTIONS, 0)
    assert "test split made here: 25% of the images (seed 0)" in notes
    assert Counter(splits) == {"test": 20, "val": 12, "train": 48}
    if isinstance(task, Bins):
        assert Counter(split for split, length in zip(splits, LENGTHS, strict=True) if length >= 100)["test"] == 5


def labels_of(rows: list[tuple[str, str]]) -> tuple[SourceRecords, list[str], Strata]:
    """Return the listing, keys and strata of rows (labels, split), each of an image of its own."""
    listing, keys = listing_of([(f"image {index}", labels, "", split) for index, (labels, split) in enumerate(rows)])
    names = tuple(sorted({name for labels, _ in rows for name in labels.split("|")} - {""}))
    return listing, keys, Strata([tuple(filter(None, labels.split("|"))) for labels, _ in rows], "label", names)


def test_labels_are_strata_of_which_a_sample_is_in_several_or_none():
    task = MultiLabel(["a", "b"])
    texts = ["a|b", "", "b", "?a"]
    assert strata_of(task, load_targets(task, texts), texts) == Strata(
        [("a", "b"), (), ("b",), ()], "label", ("a", "b")
    )


def test_each_label_is_in_each_split_and_it_is_said_of_what_a_share_was_taken():
    listing, keys, strata = labels_of([("a|b", ""), ("b", ""), ("", ""), ("a", "")] * 8)
    splits, notes = make_missing_splits(listing, keys, strata, OPTIONS, 0)
    assert "test split made here: 25% of the images of each label (seed 0)" in notes
    assert len(notes) == 2
    for name in ("a", "b"):
        counts = Counter(split for split, names in zip(splits, strata.of_samples, strict=True) if name in names)
        assert counts == {"train": 10, "val": 2, "test": 4}


def test_a_label_without_training_images_is_refused_and_one_without_test_images_is_told():
    given_splits = [("a", "train"), ("a", "val"), ("", "test")]
    listing, keys, strata = labels_of([*given_splits, ("a|b", "test")])
    with pytest.raises(DataError, match=r"no training images with the label b: .* or leave the label out"):
        make_missing_splits(listing, keys, strata, OPTIONS, 0)
    listing, keys, strata = labels_of([*given_splits, ("a|b", "train"), ("", "train"), ("", "val")])
    _, notes = make_missing_splits(listing, keys, strata, OPTIONS, 0)
    unscored = "it has no average precision and no area under the curve there"
    assert notes == [f"no val image with the label b; {unscored}", f"no test image with the label a; b; {unscored}"]


def test_a_label_that_all_images_of_a_split_have_is_told():
    rows = [("a|b", "train"), ("", "train"), ("a|b", "val"), ("", "val"), ("a", "test"), ("a|b", "test")]
    listing, keys, strata = labels_of(rows)
    _, notes = make_missing_splits(listing, keys, strata, OPTIONS, 0)
    assert notes == ["all test images have the label a; it has no area under the curve there"]


def test_nothing_is_said_of_classes_where_there_are_numbers():
    lengths = [str(index) for index in range(60)]
    listing, keys = listing_of([(f"image {length}", length, "", "") for length in [*lengths, "3"]])
    keys[-1] = keys[4]
    task = Regression()
    strata = strata_of(task, load_targets(task, listing.targets), listing.targets)
    splits, notes = make_missing_splits(listing, keys, strata, OPTIONS, 0)
    tested = [int(length) for length, split in zip(listing.targets, splits, strict=True) if split == "test"]
    assert len(tested) == 15
    assert all(4 <= sum(low <= length < low + 20 for length in tested) <= 6 for low in (0, 20, 40))
    assert notes[0] == "test split made here: 25% of the images (seed 0)"
    assert notes[2:] == ["the same image has two values (1): /data/3/image 3-60.jpg (3) = /data/4/image 4-4.jpg (4)"]
    listing, keys = listing_of([("image", "1", "", "")])
    with pytest.raises(DataError, match="too few images to make a val and a test split: at least three are needed"):
        make_missing_splits(listing, keys, Strata(["1"]), OPTIONS, 0)


# -- groups ---------------------------------------------------------------------------------------------------------


@st.composite
def grouped_samples(draw):
    """Rows (image, label, stratum, '') with their groups: of one class or of several, of any size, some on their own."""
    rows, groups, chance = [], [], draw(chances)
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True))
    for group in range(draw(st.integers(3 * len(labels), 40))):
        # the first groups give three of one class alone to each class, so that there is always something to split
        known = labels[group % len(labels) : group % len(labels) + 1] if group < 3 * len(labels) else labels
        for _ in range(chance.randint(1, 12)):
            label = chance.choice(known)
            rows += [(f"{label}{len(rows)}", label, chance.choice("xy"), "")] * chance.choice([1, 1, 2])
            groups += [f"g{group}" if group % 5 else ""] * (len(rows) - len(groups))
    order = chance.sample(range(len(rows)), len(rows))
    return [rows[index] for index in order], [groups[index] for index in order]


def split_of_groups(rows, groups, options=OPTIONS, seed=0) -> dict[str, str]:
    """Return the split of each image; no group, and no image, stands in two."""
    listing, keys = listing_of(rows)
    splits, _ = make_missing_splits(replace(listing, groups=groups), keys, classes_of(listing), options, seed)
    split_by_image, split_by_group = {}, {}
    for (image, *_), group, split in zip(rows, groups, splits, strict=True):
        assert split_by_image.setdefault(image, split) == split
        assert not group or split_by_group.setdefault(group, split) == split, f"{group} is torn apart"
    return split_by_image


@given(samples=grouped_samples(), test=st.floats(0.05, 0.8), val=st.floats(0.05, 0.8), seed=st.integers(0, 5))
def test_no_group_stands_in_two_splits_and_every_class_trains(samples, test, val, seed):
    rows, groups = samples
    splits = split_of_groups(rows, groups, DataConfig("somewhere", test_size=test, val_size=val), seed)
    assert {image[0] for image, split in splits.items() if split == "train"} == {label for _, label, *_ in rows}
    assert set(splits.values()) == set(SPLITS)


def sites(counts={"a": 6, "b": 5, "": 1}):  # noqa: B006
    """Rows of two classes at sites, by turns, and the site of each."""
    groups = [site for site, count in counts.items() for _ in range(count)]
    return [(f"{'xy'[number % 2]}{number}", "xy"[number % 2], "", "") for number in range(len(groups))], groups


def test_the_group_that_is_named_is_the_test_split_and_nothing_else_is():
    rows, groups = sites()
    splits = split_of_groups(rows, groups, replace(OPTIONS, test="group=b", val_size=0.4))
    tested = {image for (image, *_), group in zip(rows, groups, strict=True) if group == "b"}
    assert {image for image, split in splits.items() if split == "test"} == tested


def test_of_two_groups_one_is_tested_and_the_other_trains_and_validates():
    rows, groups = sites({"a": 10, "b": 10})
    listing, keys = listing_of(rows)
    options = replace(OPTIONS, test="group=b")
    splits, notes = make_missing_splits(replace(listing, groups=groups), keys, classes_of(listing), options, 0)
    assert Counter(zip(groups, splits, strict=True)) == {("a", "train"): 8, ("a", "val"): 2, ("b", "test"): 10}
    assert "one group is left to train on: validation images are of that group too" in notes


def test_a_group_that_there_is_not_or_that_is_all_there_is_is_refused():
    rows, groups = sites({"Berlin": 4, "Bern": 4})
    for sample_groups, test, message in (
        (groups, "group=Berlim", r"`test` group=Berlim: there is no such group; there are 2: Berlin, Bern\..*'Berlin'"),
        ([""] * 8, "group=Bern", r"the samples have no groups\. Say .*`group_column` or `group_by`"),
        (["Bern"] * 8, "group=Bern", r"all samples are of one group, Bern"),
    ):
        with pytest.raises(UsageError, match=message):
            split_of_groups(rows, sample_groups, replace(OPTIONS, test=test))


@pytest.mark.parametrize("given", ["test", "val"])
@pytest.mark.parametrize("test", ["cv", "groups", "group=g1"])
def test_a_test_split_that_the_data_has_is_not_replaced_unasked(given, test):
    rows = [(f"x{number}", "xy"[number % 2], "", "train" if number % 3 else given) for number in range(12)]
    with pytest.raises(UsageError, match=f"`test` {test}: the data has a test split of its own"):
        split_of_each_image(rows, replace(OPTIONS, test=test))


def test_a_word_that_says_of_no_protocol_is_refused_and_a_share_gets_its_own_option():
    with pytest.raises(UsageError, match=r"`test` '0\.3' must be cv, groups, or group=VALUE; the share .*`test_size`"):
        DataConfig("somewhere", test="0.3")
    with pytest.raises(UsageError, match=r"`test` 'group' must be .*Did you mean 'groups'"):
        DataConfig("somewhere", test="group")


@given(samples=grouped_samples(), seed=st.integers(0, 3), order=chances)
def test_order_of_the_files_and_names_of_the_groups_change_nothing(samples, seed, order):
    rows, groups = samples
    indices = list(range(len(rows)))
    order.shuffle(indices)
    other = [f"patient {group}" if group else "" for group in (groups[index] for index in indices)]
    assert split_of_groups(rows, groups, seed=seed) == split_of_groups([rows[i] for i in indices], other, seed=seed)


@given(rows=samples(), seed=st.integers(0, 3), test=st.floats(0.05, 0.9), val=st.floats(0.05, 0.9))
def test_groups_of_one_image_are_as_good_as_none(rows, seed, test, val):
    options = DataConfig("somewhere", test_size=test, val_size=val)
    groups = [f"of {image}" for image, *_ in rows]
    assert split_of_groups(rows, groups, options, seed) == split_of_each_image(rows, options, seed)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=12, max_size=60),
    share=st.floats(0.1, 0.4),
    seed=st.integers(0, 5),
)
def test_what_is_held_out_is_off_by_half_a_group_of_each_class_at_most(sizes, share, seed):
    rows, groups = [], []
    for number, size in enumerate(sizes):
        label = "ab"[number % 2]
        rows += [(f"{label}{number}-{index}", label, "", "") for index in range(size)]
        groups += [f"{number}"] * size
    splits = split_of_groups(rows, groups, DataConfig("somewhere", test_size=share), seed)
    for label, group_sizes in (("a", sizes[::2]), ("b", sizes[1::2])):
        held = sum(split == "test" for image, split in splits.items() if image[0] == label)
        assert abs(held - share * sum(group_sizes)) <= max(group_sizes) / 2 + 0.02 * sum(group_sizes) + 1


def test_every_class_keeps_its_share_where_groups_mix_the_classes():
    """48 patients with 5 to 25 images, some of a class that only every third of them has."""
    draws = random.Random(0)
    rows, groups = [], []
    for patient in range(48):
        for index in range(draws.randint(5, 25)):
            label = draws.choice("aab" if patient % 3 else "abbc")
            rows.append((f"{label}{patient}-{index}", label, "", ""))
            groups.append(f"patient {patient}")
    seen = set()
    for seed in range(8):
        splits = split_of_groups(rows, groups, seed=seed)
        seen.add(frozenset(image for image, split in splits.items() if split == "test"))
        for label in "abc":
            counts = Counter(split for image, split in splits.items() if image[0] == label)
            assert counts["test"] / counts.total() == pytest.approx(0.25, abs=0.04)
            assert counts["val"] / (counts["val"] + counts["train"]) == pytest.approx(0.2, abs=0.04)
    assert len(seen) == 8  # repetitions with other seeds are other splits


@pytest.mark.parametrize("seed", range(5))
def test_a_group_of_most_images_trains(seed):
    rows = [*unsplit({"a": 80, "b": 80}), *((f"{label}-{i}", label, "", "") for label in "ab" for i in range(20))]
    splits = split_of_groups(rows, ["huge"] * 160 + [""] * 40, seed=seed)
    assert {splits["a0"], splits["b79"]} == {"train"}
    counts = Counter(splits.values())
    assert counts["test"] >= 30
    assert counts["val"] >= 2


def test_few_groups_are_chosen_to_fit():
    """Of three patients with 1, 10 and 10 images of each class the one put aside is a large one, whatever the seed."""
    rows, groups = [], []
    for patient, size in enumerate((1, 10, 10)):
        rows += [(f"{label}{patient}-{index}", label, "", "") for label in "ab" for index in range(size)]
        groups += [f"{patient}"] * 2 * size
    for seed in range(6):
        splits = split_of_groups(rows, groups, DataConfig("somewhere", test_size=0.5), seed)
        assert Counter(splits.values())["test"] == 20


def test_groups_with_an_image_in_common_stay_together():
    rows = [*unsplit({"a": 12, "b": 12}), ("a0", "a", "", "")]
    groups = [f"g{number % 6}" for number in range(24)] + ["g5"]
    for seed in range(6):
        splits = split_of_groups(rows, groups, seed=seed)
        assert splits["a0"] == splits["a5"] == splits["b11"] == splits["b6"]


def test_a_group_in_two_given_splits_is_named_and_refused_unless_allowed():
    listing, keys = listing_of(GIVEN)
    groups = [f"{split} {image[-1]}" for image, *_, split in GIVEN]
    splits, notes = make_missing_splits(replace(listing, groups=groups), keys, classes_of(listing), OPTIONS, 0)
    assert (splits, notes) == (listing.splits, [])
    groups[0], groups[-1] = "torn", "torn"
    listing = replace(listing, groups=groups)
    with pytest.raises(DataError, match=r"the same group is in two of the given splits \(1\): torn: ") as caught:
        make_missing_splits(listing, keys, classes_of(listing), OPTIONS, 0)
    assert f"{listing.locations[0]} (train)" in str(caught.value)
    assert f"{listing.locations[-1]} (test)" in str(caught.value)
    assert "`allow_leakage`" in str(caught.value)
    splits, notes = make_missing_splits(
        listing, keys, classes_of(listing), DataConfig("somewhere", allow_leakage=True), 0
    )
    assert splits == listing.splits
    assert "torn: " in notes[0]


def test_validation_taken_out_of_a_given_train_split_keeps_groups_whole():
    rows = [
        (f"{label}{split}{i}", label, "", split) for label in "ab" for split in ("train", "test") for i in range(24)
    ]
    groups = [f"{split} {int(image.removeprefix(label + split)) // 4}" for image, label, _, split in rows]
    splits = split_of_groups(rows, groups)
    assert Counter(splits.values()) == {"train": 40, "val": 8, "test": 48}


def test_notes_say_what_share_whole_groups_came_to():
    rows = unsplit({"a": 40, "b": 40})
    listing, keys = listing_of(rows)
    groups = [f"{number // 10}" for number in range(80)]
    _, notes = make_missing_splits(replace(listing, groups=groups), keys, classes_of(listing), OPTIONS, 0)
    assert "test split made here: 25% of the images in whole groups, 25% asked for (seed 0)" in notes
    assert "validation split made here: 33% of the training images in whole groups, 20% asked for (seed 0)" in notes


def test_classes_of_one_group_each_are_refused():
    listing, keys = listing_of(unsplit({"a": 20, "b": 20}))
    with pytest.raises(DataError, match="too few groups to make a val and a test split"):
        make_missing_splits(replace(listing, groups=["a"] * 20 + ["b"] * 20), keys, classes_of(listing), OPTIONS, 0)

"""Outer folds: what is tested is never trained on, and every sample is tested once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_targets
from stages.data.outer_folds import FOLDS, outer_folds
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

NESTED, GROUPS = DataConfig("somewhere", test="cv"), DataConfig("somewhere", test="groups")


def manifest_of(task, texts, images=None, groups=()):
    """Return samples of these targets; equal `images` are copies of one."""
    images = [str(number) for number in range(len(texts))] if images is None else images
    return Manifest(
        [f"{number}.jpg" for number in range(len(texts))],
        load_targets(task, texts),
        ["train"] * len(texts),
        [key_of_bytes(image.encode()) for image in images],
        task,
        groups=list(groups),
    )


def classes(count, rare=0, **fields):
    return manifest_of(SingleLabel("ab"), ["ab"[number % 2] for number in range(count)] + ["b"] * rare, **fields)


@given(count=st.integers(40, 70), seed=st.integers(0, 5), pairs=st.integers(0, 2), copies=st.booleans())
def test_each_sample_is_tested_once_by_what_never_saw_it_nor_its_group_nor_its_copies(count, seed, pairs, copies):
    labels = ["ab"[number % 2] for number in range(count)]
    images = [f"{label}{number // 4 if copies else number}" for number, label in enumerate(labels)]
    groups = [f"g{number // (2 * pairs)}" for number in range(count)] if pairs else []
    manifest = manifest_of(SingleLabel("ab"), labels, images, groups)
    folds = outer_folds(manifest, NESTED, seed)
    assert [fold.name for fold in folds] == ["1", "2", "3", "4", "5"]
    tested = Counter(index for fold in folds for index in fold.manifest.indices("test").tolist())
    assert tested == dict.fromkeys(range(count), 1)
    for fold in folds:
        split_of = dict(zip(manifest.keys, fold.manifest.splits, strict=True))
        assert [split_of[key] for key in manifest.keys] == fold.manifest.splits
        by_group = set(zip(groups, fold.manifest.splits, strict=False))
        assert len(by_group) == len(set(groups))
        assert {"train", "val", "test"} == set(fold.manifest.splits)
        assert set(fold.manifest.targets[fold.manifest.indices("train")]) == {0, 1}


def test_each_fold_has_its_share_of_every_class_whatever_the_order_of_the_files():
    manifest = manifest_of(SingleLabel("ab"), ["a"] * 43 + ["b"] * 12)
    folds = outer_folds(manifest, NESTED, 0)
    counts = np.array([np.bincount(fold.manifest.targets[fold.manifest.indices("test")]) for fold in folds])
    assert counts.sum(axis=0).tolist() == [43, 12]
    assert np.ptp(counts, axis=0).max() <= 1
    reversed_folds = outer_folds(manifest.select(np.arange(len(manifest))[::-1]), NESTED, 0)
    assert [fold.manifest.splits for fold in folds] == [fold.manifest.splits[::-1] for fold in reversed_folds]
    assert outer_folds(manifest, NESTED, 1)[0].manifest.splits != folds[0].manifest.splits


def test_a_class_of_fewer_images_than_folds_is_named():
    with pytest.raises(DataError, match=r"makes 5 folds, each with some of every class.*fewer images: 4 of b\."):
        outer_folds(manifest_of(SingleLabel("ab"), ["a"] * 20 + ["b"] * 4), NESTED, 0)
    grouped = manifest_of(SingleLabel("ab"), ["a", "b"] * 10, groups=[f"g{number // 5}" for number in range(20)])
    with pytest.raises(DataError, match=r"there are 4 groups: `test` groups tests each of them"):
        outer_folds(grouped, NESTED, 0)


def test_numbers_are_on_the_scale_of_the_training_samples_of_their_fold():
    texts = [f"{value:.3f}" for value in np.random.default_rng(0).lognormal(size=60)]
    task = Regression(("price",), log=True)
    manifest = manifest_of(task, texts).with_splits(["train"] * 60)
    for fold in outer_folds(manifest, NESTED, 0):
        targets = fold.manifest.targets[fold.manifest.indices("train")]
        assert (targets.mean(), targets.std()) == pytest.approx((0, 1), abs=1e-9)
        assert fold.manifest.task.in_units(fold.manifest.targets)[:, 0] == pytest.approx(np.array(texts, float))


def test_labels_are_spread_over_the_folds():
    manifest = manifest_of(MultiLabel("ab"), ["a"] * 10 + ["b"] * 10 + ["a|b"] * 10 + [""] * 10)
    for fold in outer_folds(manifest, NESTED, 0):
        assert np.abs(fold.manifest.targets[fold.manifest.indices("test")].sum(axis=0) - 4).max() <= 1


def test_groups_are_folds_by_their_names_and_those_with_a_common_image_are_one():
    sites = ["Bern", "Graz", "Jena", "Kiel", "Bern"] * 8
    folds = outer_folds(classes(40, groups=sites), GROUPS, 0)
    assert [fold.name for fold in folds] == ["Bern", "Graz", "Jena", "Kiel"]
    for fold in folds:
        assert {sites[index] for index in fold.manifest.indices("test")} == {fold.name}
    (first, second) = outer_folds(classes(40, groups=["Bern", "Bern", "Graz", "Graz"] * 10), GROUPS, 0)
    for fold in (first, second):
        assert Counter(fold.manifest.splits) == {"test": 20, "train": 16, "val": 4}  # two sites are enough
    images = [str(number) for number in range(40)]
    images[2] = images[1]  # of Jena, and of Graz: of one class, which is a note of the source
    manifest = manifest_of(SingleLabel("ab"), ["a", "b", "b", *"ab" * 18, "a"], images, sites)
    assert [fold.name for fold in outer_folds(manifest, GROUPS, 0)] == ["Bern", "Graz + Jena", "Kiel"]


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([], UsageError, "the samples have no groups"),
        (["Bern"] * 20, UsageError, "all samples are of one group, Bern"),
        (["Bern", "Graz", "Jena", ""] * 5, DataError, "5 of the 20 samples are of no group"),
        (["Bern", "Graz", "Bern", "Jena"] * 5, DataError, r"without Bern, no training images of a are left"),
    ],
    ids=["none", "one", "some", "each of a class"],
)
def test_groups_that_cannot_be_left_out_one_by_one_are_refused(groups, error, message):
    with pytest.raises(error, match=message):
        outer_folds(classes(20, groups=groups), GROUPS, 0)


def test_the_number_of_folds_is_that_of_the_messages():
    assert FOLDS == 5

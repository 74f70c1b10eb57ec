"""Folders of classes, folders of splits, and those that can be either."""

import pytest

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.sources.folder import list_folder
from tests.stages.data.pictures import write_images


def listed(path, **options):
    return list_folder(DataConfig(str(path), **options))


def in_each(*splits):
    return [f"{split}/{label}" for split in splits for label in ("cat", "dog")]


PETS = ("cat", "dog")
READINGS = [
    (["train", "test"], (), "there are no class folders in test, train"),
    (["train", "test"], "classes", ([""], ("test", "train"))),
    (["train", "bus", "train/steam"], (), ([""], ("bus", "train"))),
    ([*in_each("train", "test"), "annotations"], (), "test, train, beside annotations can be splits or classes"),
    ([*in_each("train", "test"), "annotations"], (), "for instance `folders` annotations=none; if"),
    ([*in_each("train", "test"), "annotations"], "annotations=none", (["test", "train"], PETS)),
    (in_each("fold1", "fold2"), (), "fold1, fold2 have the same folders in them, .*fold1=train,fold2=test; if all are"),
    (in_each("fold1", "fold2"), "fold1=train fold2=test", (["test", "train"], PETS)),
    (in_each("fold1", "fold2"), "classes", ([""], ("fold1", "fold2"))),
    (["fold1/front", "fold1/side", "fold2/front"], (), ([""], ("fold1", "fold2"))),
    # what else splits are called: where it can mean one thing it does
    (in_each("train", "dev"), (), (["train", "val"], PETS)),
    (in_each("train", "Dev", "test"), (), (["test", "train", "val"], PETS)),
    (in_each("train", "val", "holdout"), (), (["test", "train", "val"], PETS)),
    (in_each("train", "test", "holdout"), (), "`folders` holdout=test; if all are classes, say `folders` classes"),
    (in_each("train", "val", "dev"), (), "`folders` dev=val; if"),
    (in_each("train", "eval"), (), "`folders` eval=test; if"),
    (in_each("train", "eval"), "eval=val", (["train", "val"], PETS)),
    (in_each("train", "test1"), (), "`folders` test1=test; if"),
    (in_each("train2017", "val2017"), (), "`folders` train2017=train,val2017=val; if"),
    (in_each("train2017", "val2017"), "train2017=train val2017=val", (["train", "val"], PETS)),
    ([*in_each("train"), "unlabeled"], (), "`folders` unlabeled=none; if"),
    ([*in_each("train"), "unlabeled"], "unlabeled=none", (["train"], PETS)),
    ([*in_each("train"), "unlabeled"], "classes", ([""], ("train", "unlabeled"))),
    (["train-set", "test-set"], (), "`folders` test-set=test,train-set=train; if"),
    ([*in_each("train", "extra")], (), "train, beside extra can be splits or classes"),
    ([*in_each("labeled"), "unlabeled"], (), "`folders` labeled=train,unlabeled=none; if"),
    (
        ["cat", "dog", "test/cat", "test/dog"],
        (),
        r"test has folders .* as those beside it \(cat, dog\)\. If .*as train",
    ),
    (["cat", "dog", "test/cat", "test/dog"], "classes", ([""], ("cat", "dog", "test"))),
    # names that begin alike, and single ones, are classes
    (["train_station", "testudo", "developer"], (), ([""], ("developer", "testudo", "train_station"))),
    (["development", "forest"], (), ([""], ("development", "forest"))),
    (["labeled", "unlabeled"], (), ([""], ("labeled", "unlabeled"))),
    # what the option says is checked
    (in_each("train", "eval"), "evall=val", "evall: there is no such folder in .*Did you mean 'eval'"),
    (in_each("train", "a", "b"), "a=val", r"a=val does not say what all are: add b=\.\.\. \(train, val"),
    (["train/cat", "a"], "a=val", "has the splits a, train, but there are no class folders in a"),
    # splits inside the classes
    (["cat/train", "cat/test", "dog/train/big", "dog/test"], (), (["test", "train"], PETS)),
    (["cat/train", "cat/test", "dog/train", "dog/test"], "classes", ([""], PETS)),
    (["cat/train", "cat/test", "dog/train", "dog/masks"], (), "are test, train, which look like .* beside them masks"),
    (["cat/train", "cat", "dog/train", "dog/test"], (), "beside them images in no such folder"),
    (["cat/train", "dog/train"], (), ([""], PETS)),
]


@pytest.mark.parametrize(("folders", "option", "outcome"), READINGS)
def test_classes_and_splits_are_told_apart_or_asked_about(tmp_path, folders, option, outcome):
    """Folders that hold an image; the option; the splits and classes that come of it, or what is said."""
    write_images(tmp_path, dict.fromkeys(folders, 1))
    if isinstance(outcome, str):
        with pytest.raises((DataError, UsageError), match=outcome):
            listed(tmp_path, folders=option)
    else:
        listing = listed(tmp_path, folders=option)
        assert (sorted(set(listing.splits)), listing.class_names) == outcome


def test_what_other_words_were_taken_for_is_said(tmp_path):
    write_images(tmp_path / "splits", dict.fromkeys(in_each("train", "dev", "holdout"), 1))
    assert listed(tmp_path / "splits").notes == ["dev is the val split", "holdout is the test split"]
    write_images(tmp_path / "chosen", dict.fromkeys([*in_each("train"), "extra"], 1))
    assert listed(tmp_path / "chosen", folders="extra=none").notes == ["left out extra, as `folders` says"]
    write_images(tmp_path / "inside", dict.fromkeys(["cat/train", "cat/val", "dog/train"], 1))
    assert listed(tmp_path / "inside").notes == [
        "the folders in each class are its splits; `folders` classes draws the splits anew"
    ]

"""What arguments of the library may be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cache.errors import UsageError
from pipeline.library.arguments import cache_folder, group_names, group_numbers, require_share, seed_of
from pipeline.library.estimators import FeatureExtractor, TransferClassifier
from pipeline.library.finetuning import finetune
from pipeline.library.functions import features
from pipeline.library.regressor import TransferRegressor
from pipeline.library.segmenter import TransferSegmenter

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "groups",
    [
        ["b", None, "a", "b", float("nan")],
        pd.Series(["b", None, "a", "b", None], dtype="string", index=[4, 4, 4, 0, 1]),
        pd.DataFrame({"patient": ["b", None, "a", "b", None]}),
        np.array([["b"], [None], ["a"], ["b"], [np.nan]], dtype=object),
    ],
)
def test_a_missing_group_is_one_of_its_own(groups):
    assert group_names(groups, 5) == ["b", "", "a", "b", ""]
    assert group_numbers(groups, 5).tolist() == [1, 5, 0, 1, 6]


def test_groups_are_numbered_in_their_order():
    assert group_numbers([10, 9, 10], 3).tolist() == [1, 0, 1]
    assert group_numbers(torch.tensor([2, 0]), 2).tolist() == [1, 0]
    assert group_numbers(pd.Series([1, "a", 1], dtype=object), 3).tolist() == [0, 1, 0]
    assert group_names(None, 3) == []


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], "groups holds 2 values for 3 images; there has to be one for each"),
        ([(1, 2)] * 3, r"groups has to hold one value for each of the images, \[n\], not \[3, 2\]"),
        (3, r"groups has to hold one value for each of the images, \[n\], not \[\]"),
    ],
)
def test_groups_of_another_shape_are_refused(groups, message):
    for read in (group_names, group_numbers):
        with pytest.raises(UsageError, match=message):
            read(groups, 3)


def test_a_seed_is_a_number_that_all_libraries_take():
    assert type(seed_of("seed", np.int64(3))) is int
    for given in (-1, 2**32, 1.0, "1", None):
        with pytest.raises(UsageError, match=r"seed has to be a whole number from 0 to 4,294,967,295, not"):
            seed_of("seed", given)


def test_a_cache_is_a_path_or_none_and_nothing_else_leaves_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache_folder("kept") == Path("kept")
    for given in ("", False, 3, b"kept"):
        with pytest.raises(UsageError, match="cache has to be the path of a folder, a FeatureCache or None, not"):
            features(PIXELS, image_size=32, cache=given)
        with pytest.raises(UsageError, match="cache has to be the path of a folder"):
            finetune(PIXELS, [0, 0, 1, 1], image_size=32, cache=given)
        with pytest.raises(UsageError, match="cache has to be the path of a folder"):
            TransferSegmenter("linear", cache=given).fit(PIXELS, PIXELS[..., 0] > 99)
    assert not list(tmp_path.iterdir())


def test_what_names_no_file_of_a_head_is_refused():
    classifier = TransferClassifier("ncm").fit(np.eye(8), [0, 1] * 4)
    for given in (None, "", "/", 3):
        for call in (classifier.save, TransferClassifier.load, TransferRegressor.load, TransferSegmenter.load):
            with pytest.raises(
                UsageError, match="path has to be the path of the files of a head, with or without suff"
            ):
                call(given)


def test_a_share_lies_between_0_and_1():
    require_share("val_size", np.float32(0.2))
    for given in (0, 1, None, "0.2", float("nan")):
        with pytest.raises(UsageError, match="val_size has to lie between 0 and 1, not be"):
            require_share("val_size", given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureExtractor(batch_size=0).fit(PIXELS), "`batch_size` 0 must be at least 1"),
        (lambda: FeatureExtractor(batch_size=1.5).transform(PIXELS), "`batch_size` 1.5 must be a whole number"),
        (lambda: TransferClassifier(head=["ridge"]).fit(np.eye(4), [0, 0, 1, 1]), r"head has to be the name of one"),
        (lambda: TransferClassifier(head=None).fit(np.eye(4), [0, 0, 1, 1]), "head has to be the name of one"),
        (lambda: TransferClassifier(random_state=-1).fit(np.eye(4), [0, 0, 1, 1]), "random_state has to be a whole"),
        (lambda: TransferRegressor(validation_fraction=None).fit(np.eye(4), range(4)), "validation_fraction has to"),
        (lambda: TransferRegressor(device=None).fit(np.eye(4), range(4)), "`device` None is not a device"),
        (lambda: TransferRegressor(metric=3).fit(np.eye(4), range(4)), "there is no metric 3 for the task regression"),
        (lambda: TransferSegmenter("linear", epochs=0).fit(PIXELS, PIXELS[..., 0] > 99), "`epochs` 0 must be at least"),
        (lambda: TransferSegmenter("linear", lr=-1).fit(PIXELS, PIXELS[..., 0] > 99), r"`lr` \(-1,\) must be at least"),
        (lambda: finetune(PIXELS, [0, 0, 1, 1], seed=None), "seed has to be a whole number"),
        (lambda: finetune(PIXELS, [0, 0, 1, 1], task="dense"), "`task` dense is of masks, which TransferSegmenter"),
    ],
)
def test_messages_name_the_argument_as_python_knows_it(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()

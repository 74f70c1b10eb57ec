"""What options may be, where Python itself takes anything."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.bounds import require_at_least, require_choices, take_kinds
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig


@dataclass
class Options:
    kind: Literal["warm", "cold"] = "warm"
    several: tuple[Literal["a", "b"], ...] = ("a",)
    maybe: Literal["x"] | None = None
    free: str = "anything"
    number: int | None = 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "warn"}, r"^`kind` 'warn' is not one that there is. Did you mean 'warm'\? There are warm, cold\.$"),
        ({"kind": 5}, r"`kind` 5 is not one that there is. There are warm, cold\."),
        ({"several": ("a", "c")}, r"`several` 'c' is not one that there is. There are a, b\."),
        ({"maybe": "y"}, r"`maybe` 'y' is not one that there is. There is x\."),
    ],
)
def test_a_word_that_an_option_does_not_know_is_refused_with_those_it_does(values, message):
    with pytest.raises(UsageError, match=message):
        require_choices(Options(**values))


def test_words_it_knows_and_options_without_words_are_taken():
    require_choices(Options())
    require_choices(Options("cold", ("a", "b"), "x", "else", None))


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (
            FeatureConfig,
            {"precision": "fp64"},
            "`precision` 'fp64' is not one that there is.* There are fp32, tf32, bf16, fp16, auto.",
        ),
        (FeatureConfig, {"pool": "mean"}, "`pool` mean: there is no such pooling. There are avg, max"),
        (HeadConfig, {"cv": 1}, "`cv` 1 must be 0, which selects on the validation split, or at least 2"),
        (
            HeadConfig,
            {"scalers": ("minmax",)},
            "`scalers` 'minmax' is not one that there is. There are none, standard, l2",
        ),
        (
            FinetuneConfig,
            {"amp_dtype": "fp64"},
            "`amp_dtype` 'fp64' is not one that there is.* There are none, bf16, fp16, auto",
        ),
    ],
)
def test_the_options_of_the_stages_are_asked(config, values, message):
    with pytest.raises(UsageError, match=message):
        config(**values)


def test_numbers_below_a_bound_are_refused():
    with pytest.raises(UsageError, match=r"`number` 3 must be at least 4"):
        require_at_least(Options(), {"number": 4})
    require_at_least(Options(number=None), {"number": 4})


@dataclass
class Kinds:
    whole: int = 1
    maybe_whole: int | None = None
    number: float = 1.0
    several: tuple[int, ...] = (1,)
    switch: bool = False
    word: str = "x"
    folder: Path = Path("folder")
    either: int | str = 5


@pytest.mark.parametrize(
    ("option", "value", "taken"),
    [
        ("whole", np.int64(3), 3),
        ("whole", 3.0, 3),
        ("maybe_whole", np.uint8(3), 3),
        ("number", np.float32(0.5), 0.5),
        ("number", 2, 2),
        ("several", (np.int64(2), 3.0), (2, 3)),
        ("switch", np.True_, True),
        ("switch", 1, True),
        ("word", Path("a/b"), "a/b"),
        ("word", 3, "3"),
        ("word", torch.device("cuda:1"), "cuda:1"),
        ("word", np.str_("y"), "y"),
        ("folder", "other", Path("other")),
        ("either", "5x6", "5x6"),
    ],
)
def test_what_is_of_the_kind_becomes_the_type_that_options_have(option, value, taken):
    options = Kinds(**{option: value})
    take_kinds(options)
    assert getattr(options, option) == taken
    assert type(getattr(options, option)) is type(taken)
    json.dumps({**asdict(options), "folder": ""})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("whole", 2.5, "`whole` 2.5 must be a whole number"),
        ("whole", None, "`whole` None must be a whole number"),
        ("whole", True, "`whole` True must be a whole number"),
        ("maybe_whole", float("inf"), "`maybe_whole` inf must be a whole number"),
        ("number", "1", "`number` '1' must be a number"),
        ("number", float("nan"), "`number` nan must be a number"),
        ("several", (1, 2.5), "`several` 2.5 must be a whole number"),
        ("switch", "no", "`switch` 'no' must be True or False"),
        ("word", None, "`word` None must be text"),
        ("word", ["a"], r"`word` \['a'\] must be text"),
        ("folder", 3, "`folder` 3 must be a path"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_the_name_of_the_option(option, value, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        take_kinds(Kinds(**{option: value}))


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (FeatureConfig, {"pool": None}, "`pool` None must be text"),
        (FeatureConfig, {"mirror": "no"}, "`mirror` 'no' must be True or False"),
        (FeatureConfig, {"crop_mode": None}, "`crop_mode` None is not one that there is"),
        (HeadConfig, {"c_values": (float("inf"),)}, r"`c_values` \(inf,\) must be finite"),
        (HeadConfig, {"scalers": None}, "`scalers` None is not one that there is"),
        (HeadConfig, {"cv": 2.5}, "`cv` 2.5 must be a whole number"),
        (FinetuneConfig, {"epochs": 1.5}, "`epochs` 1.5 must be a whole number"),
        (FinetuneConfig, {"init_head": "mpl"}, "`init_head` mpl: there is no such head. Did you mean 'mlp'"),
        (DataConfig, {"data": "photos", "task": None}, "`task` None must be text"),
        (DataConfig, {"data": "photos", "seeds": (2**32,)}, r"`seeds` \(4294967296,\) must be from 0 to 4,294,967,295"),
    ],
)
def test_kinds_are_asked_of_all_options(config, values, message):
    with pytest.raises(UsageError, match=message):
        config(**values)


def test_none_names_no_taps():
    assert FeatureConfig(taps=None).taps == ""

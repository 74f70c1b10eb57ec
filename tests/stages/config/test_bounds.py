"""What options may be, where Python itself takes anything."""

from dataclasses import dataclass
from typing import Literal

import pytest

from cache.errors import UsageError
from stages.config.bounds import require_at_least, require_choices
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

"""Words of other tools lead to an option that there is, and nothing leads to one that means something else."""

import pytest

from pipeline.options.toml_file import known_names
from stages.config.other_words import OTHER_WORDS, near_options

KNOWN = [*known_names(), "overwrite"]


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_every_target_is_an_option(word):
    assert set(OTHER_WORDS[word]) <= set(KNOWN)


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--learning-rate", ["lr", "head_lr", "fit_lr", "baseline_lr"]),
        ("--model", ["backbone"]),
        ("--batch-size", ["extract_batch_size", "fit_batch_size", "finetune_batch_size"]),
        ("--Layer", ["cut"]),
        ("bakbone", ["backbone"]),
        ("image_sise", ["image_size"]),
        ("zzz", []),
    ],
)
def test_what_is_near_in_meaning_comes_before_what_is_near_in_spelling(typed, near):
    assert near_options(typed, KNOWN)[: len(near) or 1] == near


def test_told_is_only_what_the_command_has():
    assert near_options("--lr", ["fit_lr", "l1", "cut"]) == ["fit_lr"]
    assert near_options("--lr", ["l1", "cut"]) == []
    assert near_options("--model", ["pool", "data"]) == []

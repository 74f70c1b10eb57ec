"""Flags that several commands share say the same in each: what trackers there are, where options stand in help."""

from typing import get_args

import pytest

from pipeline.cli import flags
from pipeline.cli.app import app
from pipeline.options.trackers import TRACKERS

ELSEWHERE = {"--track": ("run", "train", "finetune"), "--open": ("run", "best", "compare", "evaluate", "inspect")}


def test_the_flag_of_trackers_names_every_one_that_is_registered():
    _, parameter = get_args(flags.TrackFlag)
    assert TRACKERS.names()
    assert all(name in parameter.help for name in TRACKERS.names())


@pytest.mark.parametrize(("flag", "command"), [(flag, name) for flag, names in ELSEWHERE.items() for name in names])
def test_what_goes_elsewhere_is_an_option_of_the_command(flag, command):
    arguments = app[command].assemble_argument_collection()
    assert flag in {name for argument in arguments for name in argument.names}


def test_options_of_all_stages_have_groups_in_the_order_of_the_stages():
    kinds = (flags.DataFlags, flags.FeatureFlags, flags.HeadFlags, flags.FinetuneFlags)
    groups = [group for kind in kinds for parameter in get_args(kind)[1:] for group in parameter.group]
    assert [group.name for group in sorted(groups, key=lambda group: str(group.sort_key))] == [
        *("Data", "Features (stage 1)", "Heads (stage 2)", "Fine-tuning (stage 3)")
    ]

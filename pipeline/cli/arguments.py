"""What a person types, brought to the form that cyclopts reads, and what is said where it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, get_args

from cyclopts import (
    App,
    ArgumentCollection,
    CycloptsError,
    CycloptsPanel,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from cache.errors import UsageError, nearest
from pipeline.cli import COMMANDS
from pipeline.options.flags_in_text import as_flags
from pipeline.options.toml_file import OPTION_GROUPS, known_names
from stages.config.lists import join_items, joined_options, list_options, split_item
from stages.config.other_words import OTHER_WORDS, near_options
from stages.config.version_1 import COMMAND_NAMES, OPTION_NAMES


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


_Tokens = Sequence[str]


def _one_by_one(values: _Tokens, kind: Callable[[str], Any]) -> list[str]:
    return [item for value in values for item in split_item(value, kind)]


def _as_one_word(values: _Tokens) -> list[str]:
    return [join_items(values if len(values) > 1 else values[0])] if values else []


_REWRITTEN: dict[str, Callable[[_Tokens], list[str]]] = {
    **{
        _flag(option): partial(_one_by_one, kind=kind)
        for group in OPTION_GROUPS
        for option, kind in list_options(group).items()
    },
    **{_flag(option): _as_one_word for group in OPTION_GROUPS for option in joined_options(group)},
}
"""What becomes of the values of an option that takes several."""


_WITHOUT_VALUE = ("--invert-unfreeze", "--no-invert-unfreeze")
"""Flags of the command that takes an argument, behind which this may stand."""

OTHER_COMMANDS = {
    **dict.fromkeys(("fit", "head", "heads", "linear-probe"), "train"),
    **dict.fromkeys(("fine-tune", "tune", "finetuning"), "finetune"),
    **dict.fromkeys(("features", "embed", "embeddings", "encode", "cache-features"), "extract"),
    **dict.fromkeys(("classify", "infer", "inference", "apply"), "predict"),
    **dict.fromkeys(("eval", "test", "validate"), "evaluate"),
    **dict.fromkeys(("report", "results"), "compare"),
    **dict.fromkeys(("check", "clean", "duplicates", "label-errors"), "inspect"),
    **dict.fromkeys(("cuts", "nodes", "list-layers", "models"), "list-cuts"),
    **dict.fromkeys(("augment", "preview", "views"), "contact-sheet"),
    **dict.fromkeys(("find-lr", "lr-finder", "lr"), "lr-find"),
    **dict.fromkeys(("all", "start", "pipeline"), "run"),
}
"""What somebody may type -> the command here that does it."""


def with_lists(tokens: _Tokens) -> list[str]:
    """Return the tokens of a command line with the values of lists one by one, whatever stood between them.

    ``--seeds 0,1 2`` has three values, ``--cut layer3 layer4`` one that names two layers. Where an argument may follow
    an option, as in ``list-cuts --unfreeze layer3 layer4 resnet18``, the last of several values is it.
    """
    return list(_with_lists(tokens))


def _with_lists(tokens: _Tokens) -> Iterator[str]:
    remaining = list(tokens)
    argument_may_follow = tokens[:1] == ["list-cuts"]
    before = ""
    while remaining:
        token = remaining.pop(0)
        flag, equals, value = token.partition("=")
        if flag not in _REWRITTEN:
            is_value = before.startswith("--") and "=" not in before and before not in _WITHOUT_VALUE
            argument_may_follow &= token.startswith("--") or is_value or not before
            before = token
            yield token
            continue
        before = ""
        values = [value] if equals else list(takewhile(lambda token: not token.startswith("--"), remaining))
        if argument_may_follow and len(values) > 1:
            values, argument_may_follow = values[:-1], False
        del remaining[: 0 if equals else len(values)]
        rewritten = _REWRITTEN[flag](values)
        # what follows a flag after "=" may begin with a hyphen, and is its value all the same
        yield from ([f"{flag}={rewritten[0]}", *rewritten[1:]] if equals and rewritten else [flag, *rewritten])


def refuse_old_names(tokens: _Tokens) -> None:
    """Refuse a command or flag of version 1, or of a stage that did not say its name, with what it is called today.

    Raises
    ------
    UsageError
        With all names, where every stage has one of its own.
    """
    if tokens and tokens[0] in COMMAND_NAMES:
        raise UsageError(f"the command {tokens[0]} is called {COMMAND_NAMES[tokens[0]]} now")
    for token in tokens:
        name = token.removeprefix("--").partition("=")[0].replace("-", "_")
        if token.startswith("--") and name in OPTION_NAMES and name not in known_names():
            *others, last = (f"`{option}`" for option in OTHER_WORDS.get(name, (OPTION_NAMES[name],)))
            raise UsageError(f"{_flag(name)} is called {', '.join(others)}{' or ' if others else ''}{last} now")


def require_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a fraction where a whole number is wanted, from the command line or a file: cyclopts would round it.

    One of cyclopts' ``config``, which see all options of a command before they are converted.

    Raises
    ------
    UsageError
        With the option and what was given.
    """
    for argument in arguments:
        if not _is_whole(argument.hint):
            continue
        for token in argument.tokens:
            try:
                has_fraction = "." in token.value and not float(token.value).is_integer()
            except ValueError:  # no number at all, which cyclopts says of it
                continue
            if has_fraction:
                raise UsageError(f"{argument.name} {token.value} must be a whole number")


def _is_whole(hint: Any) -> bool:
    """Return whether a type, or one that it is made of, is int, and none is float."""
    parts = get_args(hint)
    if not parts:
        return hint is int
    return any(map(_is_whole, parts)) and float not in parts


def error_panel(error: CycloptsError) -> Any:
    """Return how an error of the command line is printed: a name that there is not, with those that may be meant.

    These take the place of what cyclopts would say, which knows neither other tools' names nor which option is near,
    and calls what was not given an option without its argument.
    """
    if isinstance(error, UnknownOptionError):
        typed = (error.token.keyword or error.token.value).partition("=")[0]
        known = {
            name.removeprefix("--").replace("-", "_")
            for argument in error.argument_collection
            for name in argument.names
        }
        near = near_options(typed, known)
        instead = f"Did you mean {' or '.join(map(_flag, near))}?" if near else "--help-all lists those that there are."
        error = CycloptsError(msg=as_flags(f"Unknown option: {typed}. {instead}"))
    elif (
        isinstance(error, UnknownCommandError) and error.unused_tokens and error.app and error.app.name[0] == "cutonce"
    ):
        typed = error.unused_tokens[0]
        near = [OTHER_COMMANDS[typed]] if typed in OTHER_COMMANDS else nearest(typed, COMMANDS)
        instead = f" Did you mean {' or '.join(near)}?" if near else ""
        error = CycloptsError(msg=f"Unknown command: {typed}.{instead} There are {', '.join((*COMMANDS, 'cache'))}.")
    elif isinstance(error, MissingArgumentError) and (argument := error.argument) and argument.token_count()[0] == 1:
        command = " ".join(error.command_chain or ())
        if error.keyword is not None:
            error = CycloptsError(msg=f"{error.keyword} needs a value: `cutonce {command} --help` says which.")
        elif "Did you mean" not in str(error):  # cyclopts finds what is near of options that there are not
            error = CycloptsError(msg=f"{command} needs {argument.name}: see `cutonce {command} --help`.")
    elif isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        error = CycloptsError(msg=f"Not understood: {words}. Names with blanks need quotes, and options begin with --.")
    return CycloptsPanel(error)

"""Options in messages are written as at the command line."""

import ast
import re
from pathlib import Path

from pipeline.cli.app import app
from pipeline.options.flags_in_text import as_flags

ROOT = Path(__file__).parents[3]
PACKAGES = ("cache", "stages", "pipeline")


def flags_of_commands():
    """The flags of all commands, those of `cache` too, as Python writes options."""
    commands = [app[name] for name in app if not name.startswith("-") and name != "cache"]
    commands += [app["cache"][name] for name in app["cache"] if not name.startswith("-")]
    names = {
        name
        for command in commands
        for argument in command.assemble_argument_collection(parse_docstring=False)
        for name in argument.names
    }
    return {name.removeprefix("--").replace("-", "_") for name in names if name.startswith("--")}


def words_in_messages():
    """The words between backticks in strings that are no docstrings, and where each stands."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                for word in re.findall(r"`([a-z][a-z0-9_]*)`", node.value):
                    yield word, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_options_of_single_commands_are_written_as_flags_and_other_words_stay():
    said = as_flags("say `seen` leave-out, `unknown` leave-out or `feature_map` pca; `car` is a class")
    assert said == "say --seen leave-out, --unknown leave-out or --feature-map pca; `car` is a class"


def test_each_flag_that_a_message_names_is_known_for_one():
    flags = flags_of_commands()
    assert {"image_size", "split", "keep", "masks"} <= flags
    named = [(word, place) for word, place in words_in_messages() if word in flags]
    assert len({word for word, _ in named}) > 100
    assert [(word, place) for word, place in named if as_flags(f"`{word}`") == f"`{word}`"] == []

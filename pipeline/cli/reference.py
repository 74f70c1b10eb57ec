"""The reference of all options, made from what defines them: ``python -m pipeline.cli.reference > docs/options.md``.

The options of the stages are dataclasses; those of the ``cache`` sub-commands are the parameters of their functions.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields

from cyclopts import App

from pipeline.cli.cache import app as cache_app
from pipeline.options.toml_file import OPTION_GROUPS


def reference() -> str:
    """Return docs/options.md: one table per stage and per `cache` sub-command with flag, default and meaning."""
    parts = [
        "# Options",
        "",
        "Made by `python -m pipeline.cli.reference > docs/options.md` from the dataclasses in `stages/config/`.",
        "Every option of a stage is a flag (`--image-size 300`), a line of the TOML file given with `--config`",
        "(`image_size = 300`), and a field of the class in Python (`FeatureConfig(image_size=300)`).",
        "Flags win over the file. Those in bold are used most: `--help` shows them, `--help-all` every one.",
        "Every command takes `--log-json FILE`, too: [scale.md](scale.md#a-long-job-watched).",
    ]
    for group in OPTION_GROUPS:
        meaning = _field_docstrings(group) | {
            option.name: option.metadata["help"] for option in fields(group) if "help" in option.metadata
        }
        parts += ["", f"## {group.__name__}", "", inspect.cleandoc(group.__doc__ or ""), ""]
        parts += ["| flag | default | meaning |", "|---|---|---|"]
        for option in fields(group):
            flag = f"`--{option.name.replace('_', '-')}`"
            flag = f"**{flag}**" if option.metadata.get("common") else flag
            parts.append(f"| {flag} | {_default(option.default)} | {_cell(meaning[option.name])} |")
    return "\n".join([*parts, *_sub_commands(cache_app)]) + "\n"


def _sub_commands(app: App) -> Iterator[str]:
    """Yield the lines about the sub-commands of a command, in the order of its help."""
    for name in sorted((name for name in app if not name.startswith("-")), key=lambda name: app[name].sort_key):
        command = app[name]
        summary = (inspect.getdoc(command.default_command) or "").split("\n\n")[0].replace("\n", " ")
        yield from ("", f"## {app.name[0]} {name}", "", summary, "")
        yield from ("| argument or flag | default | meaning |", "|---|---|---|")
        for argument in command.assemble_argument_collection(parse_docstring=True):
            default = MISSING if argument.required else argument.field_info.default
            unset = default is inspect.Parameter.empty  # any number of arguments, none of them too
            meaning = " ".join((argument.parameter.help or "").split())
            yield f"| `{argument.name}` | {'' if unset else _default(default)} | {_cell(meaning)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    if value is None or value == ():
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _field_docstrings(group: type) -> dict[str, str]:
    """Return the string that stands below each field of a dataclass of ``stages/config``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(group)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    documented = {}
    for statement, following in itertools.pairwise(definition.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not isinstance(following, ast.Expr):
                continue  # its meaning stands in its metadata
            assert isinstance(following.value, ast.Constant)
            documented[statement.target.id] = " ".join(str(following.value.value).split())
    return documented


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201

"""The reference of all options, made from the dataclasses: ``python -m pipeline.reference > docs/options.md``."""

from __future__ import annotations

import ast
import inspect
import itertools
from dataclasses import MISSING, fields

from pipeline.configuration import OPTION_GROUPS
from stages import options


def reference() -> str:
    """Return docs/options.md: one table per stage with flag, default and meaning."""
    parts = [
        "# Options",
        "",
        "Made from the dataclasses in `stages/options.py` by `python -m pipeline.reference > docs/options.md`.",
        "Every option is a flag (`--image-size 300`), a line of the TOML file given with `--config`",
        "(`image_size = 300`), and a field of the class in Python (`Features(image_size=300)`).",
        "Flags win over the file.",
    ]
    for group in OPTION_GROUPS:
        meaning = _field_docstrings(group.__name__)
        parts += ["", f"## {group.__name__}", "", inspect.cleandoc(group.__doc__ or ""), ""]
        parts += ["| flag | default | meaning |", "|---|---|---|"]
        for one in fields(group):
            flag = f"`--{one.name.replace('_', '-')}`"
            parts.append(f"| {flag} | {_default(one.default)} | {meaning[one.name]} |")
    return "\n".join(parts) + "\n"


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    if value is None:
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _field_docstrings(class_name: str) -> dict[str, str]:
    """Return the string that stands below each field of a dataclass in ``stages/options.py``."""
    tree = ast.parse(inspect.getsource(options))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    documented = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            documented[statement.target.id] = " ".join(str(following.value.value).split())
    return documented


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201

"""What is written runs on the oldest Python that is promised, which need not be the one that runs the tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OLDEST = tuple(
    map(int, re.search(r'requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups())
)
NEWER = {
    "typing": {
        *("Self", "Never", "LiteralString", "NotRequired", "Required", "Unpack", "TypeVarTuple", "TypeAliasType"),
        *("assert_never", "assert_type", "reveal_type", "override", "dataclass_transform"),
    },
    "enum": {"StrEnum", "ReprEnum", "verify", "member", "nonmember"},
    "datetime": {"UTC"},
    "itertools": {"batched"},
    "contextlib": {"chdir"},
    "hashlib": {"file_digest"},
    "asyncio": {"TaskGroup", "Runner", "timeout"},
    "collections.abc": {"Buffer"},
    "math": {"cbrt", "exp2", "sumprod"},
    "operator": {"call"},
    "warnings": {"deprecated"},
}
"""Names that the standard library has had since Python 3.11 or 3.12."""
NEWER_MODULES = {"tomllib", "wsgiref.types"}
MODULES = sorted(
    path for room in ("cache", "stages", "pipeline", "benchmarks", "tests") for path in (ROOT / room).rglob("*.py")
)


def is_guarded(statement):
    """Whether an `if` asks for the version, or for what checks types."""
    return isinstance(statement, ast.If) and re.search(r"version_info|TYPE_CHECKING", ast.unparse(statement.test))


def imported(tree):
    """Yield the module and the name of all that is imported when the module runs."""
    pending = [*tree.body]
    while pending:
        node = pending.pop()
        if is_guarded(node):
            continue
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_needs_a_newer_python_than_is_promised(path):
    assert OLDEST == (3, 10), "then the names that are too new are others"
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)
    too_new = [
        f"{module}.{name}"
        for module, name in imported(tree)
        if name in NEWER.get(module, ()) or module in NEWER_MODULES
    ]
    assert not too_new

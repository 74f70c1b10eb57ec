"""The rooms of ``docs/design.md`` and the direction of their imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGE_3 = "stages.finetune", "stages.finetuning"
FORBIDDEN = {
    "cache": ("stages", "pipeline", "torch", "torchvision", "PIL"),
    "stages": ("pipeline",),
    "stages/data": ("stages.network", "stages.training", "stages.extract", "stages.head", *STAGE_3),
    "stages/finetuning": ("stages.head", "stages.fitting", "stages.finetune"),
    "stages/fitting": ("stages.data", "stages.extract", "stages.extractor", "stages.head", *STAGE_3),
    "stages/network": ("stages.training", "stages.extract", "stages.head", *STAGE_3),
    "stages/inspection": ("stages.data", "stages.extract", "stages.extractor", *STAGE_3),
    "stages/training": ("stages.data", "stages.network", "stages.extract", "stages.head", *STAGE_3),
}
MODULES = sorted(path for room in ("cache", "stages", "pipeline") for path in (ROOT / room).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = str(path.parent.relative_to(ROOT))
    forbidden = [name for place, names in FORBIDDEN.items() if (room + "/").startswith(place + "/") for name in names]
    wrong = {
        name
        for name in imported_names(path)
        if any(name == other or name.startswith(other + ".") for other in forbidden)
    }
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path):
    """No load path runs code: torch.load only with weights_only=True, numpy without pickles, no pickle module."""
    assert not imported_names(path) & {"pickle", "dill", "cloudpickle", "joblib.load"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.load",
            "torch.hub.load_state_dict_from_url",
        ):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"

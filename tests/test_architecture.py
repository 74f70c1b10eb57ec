"""The rooms of ``docs/design.md`` and the direction of their imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("cache", "stages", "pipeline")

ALLOWED: dict[str, tuple[str, ...]] = {
    "cache": (),
    "stages.config": ("cache.errors", "cache.registry", "cache.formats"),
    "stages.runtime": ("cache",),
    "stages.tasks": ("cache.errors", "cache.registry", "stages.runtime.threads"),
    "stages.columns": ("cache.atomic_write", "cache.errors"),
    "stages.data": ("cache", "stages.config", "stages.runtime", "stages.tasks"),
    "stages.network": ("cache", "stages.config", "stages.runtime", "stages.data.images"),
    "stages.training": ("cache", "stages.config", "stages.runtime", "stages.tasks"),
    "stages.extraction": ("cache", "stages.config", "stages.runtime", "stages.data", "stages.network"),
    "stages.fitting": (
        *("cache", "stages.config", "stages.runtime", "stages.tasks", "stages.network", "stages.training"),
    ),
    "stages.finetuning": (
        *("cache", "stages.config", "stages.runtime", "stages.tasks", "stages.data", "stages.network"),
        *("stages.extraction", "stages.training"),
    ),
    "stages.inspection": ("cache", "stages.config", "stages.runtime", "stages.tasks", "stages.fitting"),
    "pipeline.own_packages": (),
    "pipeline.run_layout": (),
    "pipeline.options": ("cache.atomic_write", "cache.errors", "cache.registry", "stages.config"),
    "pipeline.text": (),
    "pipeline.evaluation": ("cache", "stages.config", "stages.tasks", "pipeline.text", "pipeline.run_layout"),
    "pipeline.report": (
        *("cache", "stages", "pipeline.text", "pipeline.options", "pipeline.evaluation", "pipeline.run_layout"),
    ),
    "pipeline.experiment": (
        *("cache", "stages", "pipeline.text", "pipeline.options", "pipeline.run_layout", "pipeline.evaluation"),
        "pipeline.report",
    ),
    "pipeline.library": (
        *("cache", "stages", "pipeline.experiment", "pipeline.evaluation", "pipeline.options", "pipeline.text"),
    ),
    "pipeline.tracking": (*("cache", "pipeline.evaluation", "pipeline.options", "pipeline.run_layout"),),
    "pipeline.export": (
        *("cache", "stages", "pipeline.experiment", "pipeline.evaluation", "pipeline.options", "pipeline.text"),
        *("pipeline.library", "pipeline.run_layout"),
    ),
    "pipeline.cli": ("cache", "stages", "pipeline"),
    "pipeline.__main__": ("pipeline.cli", "pipeline.own_packages"),
    "pipeline": ("stages.config", "pipeline"),
    "stages": (),
}
"""What a module may import besides its own room: the longest name here that its own begins with says."""

INSIDE = {
    "stages.data": (
        *(
            "images",
            "masks",
            "augment",
            "sample",
            "encoded_files",
            "sources",
            "image_stream",
            "group_split",
            "splits",
            "targets",
            "manifest",
        ),
        *("outer_folds", "new_samples", "survey", "pixel_quality", "tiled_manifest"),
    ),
    "stages.fitting": (
        *("feature_rows", "folds", "problem", "scores", "standardize", "out_of_fold", "result", "registry"),
        *("solvers", "heads", "epochs", "span", "depths", "blocks", "fit_head", "ensemble", "halving", "stacking"),
    ),
    "stages.network": (
        *("module_paths", "import_path", "memory_format", "classifier", "freezing", "stochastic_depth", "reinit"),
        *("image_channels", "aggregate"),
        *("graph", "map_layout", "auxiliary_heads", "backbones", "heads"),
    ),
    "pipeline.experiment": (
        *("experiment", "models", "setup", "prediction", "methods", "pages", "compare_runs", "evaluate_run"),
        *("probes", "best"),
    ),
}
"""Parts of a room, each of which may import those before it."""

MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


OURS = {module_name(path) for path in MODULES}


def imported_names(path: Path) -> set[str]:
    """Every module and name that is imported, inside functions too, and by `import_module` of a word."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if isinstance(node.args[0], ast.Constant):
                names.add(node.args[0].value)
            elif isinstance(node.args[0], ast.JoinedStr) and isinstance(node.args[0].values[0], ast.Constant):
                names.add(node.args[0].values[0].value.rstrip("."))
    return names


def imported_modules(path: Path) -> set[str]:
    """Those of our own modules."""
    names = {name for name in imported_names(path) if name.split(".")[0] in ROOMS}
    return {name if name in OURS else name.rpartition(".")[0] for name in names if name in OURS or "." in name}


def lies_in(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    exact = ("pipeline", "stages")  # those of the package files alone: whatever lies below needs a room of its own
    return max((room for room in ALLOWED if (module == room if room in exact else lies_in(module, room))), key=len)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = room_of(module_name(path))
    allowed = (*ALLOWED[room], room)
    parents = {module_name(path).rpartition(".")[0]}
    wrong = {
        name
        for name in imported_modules(path) - parents
        if name not in ROOMS and not any(lies_in(name, room) for room in allowed)
    }
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_inside_a_room_imports_point_one_way_too(path):
    module = module_name(path)
    for room, order in INSIDE.items():
        if not lies_in(module, room) or module == room:
            continue
        part = module.removeprefix(room + ".").split(".")[0]
        parts = {
            name.removeprefix(room + ".").split(".")[0]
            for name in imported_modules(path)
            if name.startswith(room + ".")
        }
        assert part in order, f"{part} has no place in the order of {room}"
        assert all(order.index(other_part) <= order.index(part) for other_part in parts)


def test_the_rule_sees_imports_in_functions_and_by_name(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from stages.fitting.heads import ridge\n    import_module('pipeline.cli.run')\n")
    assert {"stages.fitting.heads.ridge", "pipeline.cli.run"} <= imported_names(file)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path):
    """No load path runs code: torch.load only with weights_only=True, numpy without pickles, no pickle module."""
    loaders = {"dill", "cloudpickle", "joblib.load"} | {f"pickle.{name}" for name in ("load", "loads", "Unpickler")}
    assert not imported_names(path) & loaders
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "torch.load",
            "torch.hub.load_state_dict_from_url",
        ):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node) in loaders), f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_to_be_installed_is_named_by_its_library(path):
    """What lies on PyPI under our name may be somebody else's."""
    assert not re.search(r"pip install\b[^\n]*\bcutonce", path.read_text(encoding="utf-8"))

"""Heads by what they say of themselves: nothing is imported to know it, and other packages are heard as well."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache.errors import UsageError
from stages.config.head_registry import HEADS, HeadKind, find_head, head_label, import_head, require_known
from stages.config.heads import HeadConfig
from stages.fitting.fit_head import get_fit
from tests.plug_ins import forget_afterwards
from tests.ready_processes import run

ROOT = Path(__file__).parents[3]
EXAMPLES = re.findall(
    r"```python\n(.*?)```",
    (ROOT / "docs" / "extending.md").read_text().split("## A head")[1].split("\n## ")[0],
    re.DOTALL,
)


def test_names_and_labels_are_known_before_torch_is_imported():
    script = (
        "import sys; from stages.config.heads import HeadConfig; from stages.config import head_registry as heads\n"
        "HeadConfig(head=('rbf', 'mlp')); print(heads.head_label('rbf'), heads.describe_heads())\n"
        "print('HEAVY', sorted({'torch', 'sklearn', 'scipy', 'h5py'} & sys.modules.keys()))"
    )
    completed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert completed.stdout.startswith("RBF SVM Fitted models: ")
    assert "HEAVY []" in completed.stdout


def test_what_is_read_from_the_text_is_what_the_decorators_say():
    """Every call of a decorator is found, and its arguments are those that the import gives."""
    calls = [
        decorator.args[0].value
        for path in (ROOT / "stages").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for decorator in getattr(node, "decorator_list", [])
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in ("register_head", "register_torch_head")
    ]
    assert sorted(calls) == sorted(HEADS.declared)
    for name, declared in HEADS.declared.items():
        import_head(name)
        assert HEADS._registered[name] == declared
        assert declared.help_text


@pytest.mark.parametrize("name", ["rbf", "knn"])
def test_what_a_fit_function_is_saved_as_exists(name):
    module, _, class_name = find_head(name).saved_as.partition(":")
    assert getattr(importlib.import_module(module), class_name)


def test_every_command_knows_a_head_by_its_import_path_too():
    assert HeadConfig(head=("mine.heads:Flat",)).head == ("mine.heads:Flat",)
    assert find_head("mine.heads:Flat").in_epochs
    assert head_label("mine.heads:Flat") == "mine.heads:Flat"
    assert head_label("3") == "3"  # fine-tuned methods have names that are no heads


def test_a_name_that_is_taken_is_an_error_that_names_both(monkeypatch):
    def fit(problem):
        """Another one."""

    with pytest.raises(
        UsageError,
        match=r"two heads are called 'ridge': that of stages.fitting.heads.ridge.* and .*test_head_registry.*fit;",
    ):
        HEADS.register(HeadKind("ridge", "ridge"), fit)
    forget_afterwards(monkeypatch, HEADS)
    HEADS.register(HeadKind("mine", "mine"), fit)
    with pytest.raises(UsageError, match=r"'mine': that of .*test_head_registry.*fit and that of stages.*;"):
        HEADS.register(HeadKind("mine", "mine"), get_fit("ridge"))


@pytest.fixture
def their_package(tmp_path):
    """The examples of the page, each a module of a package that is installed, and what it is installed with."""
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in zip(("lda", "lowrank"), EXAMPLES, strict=True):
        (package / f"{name}.py").write_text(text)
    installed = tmp_path / "their_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    points = "[cutonce.heads]\nlda = their_package.lda\nlowrank = their_package.lowrank\n"
    (installed / "entry_points.txt").write_text(points)
    return tmp_path


def run_with(folder, script, **more):
    """Return what a process says in which the folder is installed."""
    path = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    return run("-c", path + script, cwd=folder, check=True, **more).stdout


def test_heads_of_another_package_are_shown_trained_saved_loaded_and_labelled(their_package):
    output = run_with(
        their_package,
        """
import torch
from pipeline.cli.app import main
from pipeline.evaluation.comparison import method_words
from pipeline.evaluation.results import Result
from pathlib import Path
from types import SimpleNamespace
from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import require_in_memory, StreamedFeatureRows
from stages.fitting.fit_head import head_probabilities, train_head
from stages.network.heads.serialization import load_head, save_head
from tests.stages.fitting.rows_of_digits import TEN_CLASSES, digits, fit_problem
try: main(["train", "--help"])
except SystemExit: pass
train, val, test = digits()
for name in ("lda", "lowrank"):
    problem = fit_problem(train, val, classes=10, options=HeadConfig(head=(name,), fit_epochs=20, fit_lr=(1e-2,), hidden_dim=8))
    trained = train_head(name, problem)
    print("RIGHT", name, (head_probabilities(trained.module, test.features, TEN_CLASSES).argmax(axis=1) == test.labels).mean() > 0.9)
    save_head(Path(name), trained.module, {})
    again, rows = load_head(Path(name))[0], torch.from_numpy(test.features).float()
    print("SAME", name, torch.equal(again(rows), trained.module.eval()(rows)), trained.method)
    print("LABEL", method_words(SimpleNamespace(method="linear", name=name, settings={})))
for refused in (lambda: HeadConfig(head=("lowrnk",)), lambda: require_in_memory("lda", StreamedFeatureRows([], [], None, 0))):
    try: refused()
    except UsageError as error: print("ERROR", error)
""",
    )
    assert "Of other packages: lda, lowrank." in " ".join(output.replace("│", " ").split())
    for name, method, label in (("lda", "linear", "LDA"), ("lowrank", "head", "low rank")):
        assert f"RIGHT {name} True" in output
        assert f"SAME {name} True {method}" in output
        assert f"LABEL {label}" in output
    assert re.search(r"ERROR `head` lowrnk: .*Did you mean 'lowrank'", output)
    assert re.search(
        r"ERROR `head` lda needs all .*streams them: kernel_ridge, logistic, ncm, ridge, sgd, svm, .*linear, lowrank, mlp",
        output,
    )


def test_two_packages_with_one_name_are_told_apart_by_the_error(their_package):
    points = their_package / "their_package-1.0.dist-info" / "entry_points.txt"
    points.write_text("[cutonce.heads]\nridge = their_package.lda\nlowrank = their_package.lda\n")
    output = run_with(
        their_package,
        "from cache.errors import UsageError; from stages.config.head_registry import find_head\n"
        "for name in ('ridge', 'lowrank'):\n"
        "    try: find_head(name)\n"
        "    except UsageError as error: print(error)\n",
    )
    lda = "their_package.lda (the package their-package)"
    assert f"two heads are called 'ridge': that of stages.fitting.heads.ridge and that of {lda}" in output
    assert f"{lda} registers no head lowrank" in output


def test_a_head_that_others_have_leads_to_the_one_that_takes_its_place():
    with pytest.raises(UsageError, match=r"`head` svr: there is no such head; .* predicted by kernel_ridge"):
        require_known("svr")

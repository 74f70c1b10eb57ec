"""The tests mirror the packages: a module of some size has a file of tests of its name, in the folder of its name."""

from pathlib import Path

import pytest

from tests.conftest import LONG_FILES

ROOT = Path(__file__).parent.parent
LARGE = 60
"""Lines up to which a module may be tested through those that use it."""

TESTED_FROM_OUTSIDE = [
    "stages/config/features.py",
    "stages/config/finetune.py",
    "stages/config/heads.py",
    "stages/data/augment/transforms.py",
    "stages/data/sources/records.py",
    "stages/extraction/extractor.py",
    "stages/finetuning/autotune.py",
    "stages/finetuning/image_batches.py",
    "stages/fitting/feature_rows.py",
    "stages/fitting/problem.py",
    "stages/fitting/heads/sgd.py",
    "stages/inspection/extrapolation.py",
    "stages/inspection/inspect.py",
    "stages/inspection/layer_probe.py",
    "stages/inspection/out_of_fold.py",
    "stages/network/backbones/base.py",
    "stages/network/backbones/module_identity.py",
    "stages/network/backbones/timm_models.py",
    "stages/network/backbones/weights_file.py",
    "stages/network/graph/probe_points.py",
    "stages/network/graph/section.py",
    "stages/network/graph/trace.py",
    "stages/network/heads/base.py",
    "stages/network/heads/registry.py",
    "stages/network/heads/serialization.py",
    "pipeline/cli/cache/export.py",
    "pipeline/cli/cache/prune.py",
    "pipeline/cli/cache/show.py",
    "pipeline/cli/cache/verify.py",
    "pipeline/cli/contact_sheet.py",
    "pipeline/cli/extract.py",
    "pipeline/cli/finetune.py",
    "pipeline/cli/lr_find.py",
    "pipeline/cli/learning_curve.py",
    "pipeline/cli/run.py",
    "pipeline/evaluation/method_summary.py",
    "pipeline/evaluation/verdict.py",
    "pipeline/experiment/compare_runs.py",
    "pipeline/experiment/methods/head_methods.py",
    "pipeline/library/images.py",
    "pipeline/report/inspection.py",
    "pipeline/report/probe_figures.py",
]
"""Larger modules that are held by the tests of others. The list gets shorter, never longer."""

MODULES = sorted(
    path.relative_to(ROOT) for room in ("cache", "stages", "pipeline") for path in (ROOT / room).rglob("*.py")
)


def own_tests(module: Path) -> Path:
    return ROOT / "tests" / module.parent / f"test_{module.name}"


@pytest.mark.parametrize("module", [path for path in MODULES if not path.name.startswith("__")], ids=str)
def test_a_module_of_some_size_has_tests_of_its_name(module):
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert lines <= LARGE or own_tests(module).exists() or str(module) in TESTED_FROM_OUTSIDE


@pytest.mark.parametrize("name", TESTED_FROM_OUTSIDE)
def test_an_exception_is_one(name):
    assert (ROOT / name).exists()
    assert not own_tests(Path(name)).exists(), f"{name} has tests of its own now: take it off the list"


def test_files_that_are_begun_with_are_there():
    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).exists()] == []

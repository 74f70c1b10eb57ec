"""Every file that is read back is replaced whole: by a killed writer, on a full disk, by two processes at once."""

import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache import FeatureCache
from cache.errors import CutonceError
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import Result, write_predictions_csv, write_results_json
from pipeline.experiment.models.model_card import ModelCard
from pipeline.experiment.models.model_store import copy_model, save_model
from pipeline.experiment.prediction.classify_images import write_csv
from pipeline.experiment.prediction.prediction import Prediction
from pipeline.experiment.setup.run_setup import init_run
from pipeline.library.export import export_features
from pipeline.report.page import write_report
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.finetuning.autotune import AutotuneState
from stages.inspection.unlike import UnlikeDetector
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import save_head
from stages.training.checkpoint import CheckpointFile
from stages.training.lr_finder import LRFinderResult
from tests.cache.conftest import SPEC, make_keys
from tests.cache.processes import in_process, in_processes
from tests.pipeline.caches import KEYS, make_cache, make_manifest
from tests.pipeline.finished_runs import add, predictions, result
from tests.renames import take_over

SCORES = predictions([0, 1] * 10, [False] * 15 + [True] * 5)


def head_of(version: int) -> LinearHead:
    torch.manual_seed(version)
    return LinearHead((8,), 3)


def card(version: int) -> ModelCard:
    task = {"name": "single_label", "class_names": ["a", "b", "c"]}
    return ModelCard("linear", "logistic", version, task, {}, "digest", None, "identity")


def write_manifest(folder: Path, version: int) -> None:
    make_manifest(make_keys(20 + version)).save(folder / "manifest.csv")


def write_rates(folder: Path, version: int) -> None:
    rates = np.full(30, float(version))
    AutotuneState("bfloat16", [LRFinderResult(rates, rates, rates, 0.1, None)]).save(folder)


def write_checkpoint(folder: Path, version: int) -> None:
    CheckpointFile(folder / "checkpoint.pt", {}, 0.0).save({"weights": torch.full((100,), float(version))})


def write_head(folder: Path, version: int) -> None:
    save_head(folder / "head", head_of(version), {"version": version})


def write_model(folder: Path, version: int) -> None:
    top = {"layer.weight": torch.full((8, 8), float(version))}
    tuned = SimpleNamespace(without_auxiliary_heads=lambda: top)
    unlike = UnlikeDetector(torch.full((20, 8), float(version)).half(), float(version))
    save_model(folder, card(version), head_of(version), without_val=head_of(version), tuned=tuned, unlike=unlike)


def write_copy(folder: Path, version: int) -> None:
    source = folder.parent / f"model-{version}"
    if not source.exists():
        write_model(source, version)
    copy_model(source, folder, card(version))


def write_result(folder: Path, version: int) -> None:
    result(SCORES, seed=version).save(
        folder, predictions([0, 1] * 10, [False] * (10 + version) + [True] * (10 - version))
    )


def seed_result(run: Path, version: int) -> Path:
    return next(run.glob("*/*"), None) or add(run, SCORES, seed=version)


def write_tables(folder: Path, version: int) -> None:
    loaded = Result.load(seed_result(folder.parent / f"run-{version}", version))
    write_results_json(folder, [loaded], verdict="verdict", comparisons=[], configuration={}, environment={})
    write_predictions_csv(folder, [loaded])


def write_page(folder: Path, version: int) -> None:
    seed_result(folder.parent / f"run-{version}", version)
    write_report(folder, compare_runs([folder.parent / f"run-{version}"]), {}, {}, [f"note {version}"])


def write_run(folder: Path, version: int) -> None:
    init_run(folder, DataConfig(f"data-{version}"), FeatureConfig())


def write_classes(folder: Path, version: int) -> None:
    cells = {"class": "a", "probability_a": "0.9"}
    write_csv(folder / "classes.csv", [Prediction(f"{version}.png", "a  0.9", cells, np.array([0.9, 0.1]))] * 5)


def write_export(suffix: str) -> Callable[[Path, int], None]:
    def write(folder: Path, version: int) -> None:
        root = folder.parent / f"cache-{version}"
        if not root.exists():
            make_cache(root, KEYS[: 20 + version])
        export_features(FeatureCache(root, SPEC), folder / f"features.{suffix}")

    return write


WRITERS = {
    "manifest": (write_manifest, {"manifest.csv", "manifest.json"}),
    "rates found by trying": (write_rates, {"found.json"}),
    "checkpoint": (write_checkpoint, {"checkpoint.pt"}),
    "head": (write_head, {"head.json", "head.safetensors"}),
    "model": (write_model, {"model.json", "top.safetensors", "head.safetensors", "head-without-val.safetensors"}),
    "copied model": (write_copy, {"model.json", "top.safetensors", "head.safetensors", "head-without-val.json"}),
    "result": (write_result, {"result.json", "predictions.npz"}),
    "tables of a run": (write_tables, {"results.json", "predictions.csv"}),
    "page": (write_page, {"report.html"}),
    "options of a run": (write_run, {"config.toml", "environment.json"}),
    "predicted classes": (write_classes, {"classes.csv"}),
    "features as npz": (write_export("npz"), {"features.npz"}),
    "features as parquet": (write_export("parquet"), {"features.parquet"}),
    "features as safetensors": (write_export("safetensors"), {"features.safetensors"}),
}
EACH_KIND = pytest.mark.parametrize("kind", WRITERS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "written").mkdir()
    return tmp_path / "written"


@EACH_KIND
def test_a_writer_killed_before_a_file_has_its_name_leaves_the_old_one_whole(kind, folder, monkeypatch):
    write, names = WRITERS[kind]
    replace = os.replace
    for name in names:
        write(folder, 1)
        old = contents(folder)

        def killed(source, target, name=name):
            if Path(target) == folder / name:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            take_over("replace", killed, patch.setattr)
            with pytest.raises(KeyboardInterrupt):
                write(folder, 2)
        assert contents(folder)[name] == old[name]
        assert contents(folder).keys() == old.keys()


@EACH_KIND
def test_a_full_disk_leaves_the_old_files_whole(kind, folder):
    write, names = WRITERS[kind]
    write(folder, 1)
    old = contents(folder)
    write(folder.parent / "elsewhere", 2)  # what is written is made of other files, which are there now
    smallest = min(len(old[name]) for name in names)

    def write_on_a_full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (smallest // 2, resource.RLIM_INFINITY))
        with pytest.raises((CutonceError, OSError), match=r"no room|cannot be written|File too large"):
            write(folder, 2)

    in_process(write_on_a_full_disk)
    assert contents(folder) == old


@EACH_KIND
def test_two_processes_that_write_one_run_do_not_collide(kind, folder):
    write, names = WRITERS[kind]
    whole = []
    for version in (1, 2):
        write(folder, version)
        whole.append({name: Counter(content) for name, content in contents(folder).items()})  # safetensors has no order

    def write_often(version):
        for _ in range(3):
            write(folder, version)

    in_processes(write_often, [(1,), (2,)])
    last = {name: Counter(content) for name, content in contents(folder).items()}
    assert all(last[name] in [version[name] for version in whole] for name in names)
    assert last.keys() == whole[1].keys()

"""What a command leaves in a run before it computes anything."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import UsageError
from pipeline.experiment.run_setup import init_run, make_manifest, record_options
from pipeline.options.toml_file import read_configuration
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest

FIXTURE = Path(__file__).parent / "fixtures" / "version_1" / "run"
OPTIONS = (DataConfig("photos"), FinetuneConfig(epochs=7))


def test_a_run_with_results_keeps_its_options_until_others_have_trained_something(tmp_path):
    """A range test into a run trains nothing that is kept: the page must not say its epochs."""
    run = shutil.copytree(FIXTURE, tmp_path / "run")
    kept = {name: (run / name).read_bytes() for name in ("config.toml", "environment.json")}
    init_run(run, *OPTIONS)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    record_options(run, *OPTIONS)
    assert read_configuration(run / "config.toml")["epochs"] == 7


def test_a_new_run_has_its_options_from_the_beginning(tmp_path):
    init_run(tmp_path / "run", *OPTIONS)
    assert read_configuration(tmp_path / "run" / "config.toml")["epochs"] == 7
    assert (tmp_path / "run" / "environment.json").exists()


def test_the_metric_is_set_once_for_all_that_chooses_and_ranks_and_one_that_there_is_not_is_refused(tmp_path):
    for number in range(8):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), 20 * number, np.uint8)).save(path)
    data, features = DataConfig(str(tmp_path / "photos")), FeatureConfig(cache=tmp_path / "cache")
    balanced = HeadConfig(class_weights="balanced")
    plain, chosen = (
        make_manifest(data, features, 0),
        make_manifest(replace(data, metric="f1-macro"), features, 0, balanced),
    )
    assert (plain.task.primary, chosen.task.primary) == ("accuracy", "f1_macro")
    implied = make_manifest(data, features, 0, balanced)
    assert implied.task.primary == "balanced_accuracy"
    assert [note for note in implied.notes if note not in chosen.notes] == [
        "`class_weights` balanced: settings are chosen and methods ranked by balanced accuracy; `metric` names another"
    ]
    implied.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv").task == implied.task
    with pytest.raises(UsageError, match=r"no metric 'map_macro' for the task single_label"):
        make_manifest(replace(data, metric="map_macro"), features, 0)

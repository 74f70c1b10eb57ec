"""What a command leaves in a run before it computes anything."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import UsageError
from pipeline.experiment.setup.run_setup import extract_features, init_run, make_manifest, record_options
from pipeline.options.toml_file import read_configuration
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import build_extractor

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1" / "run"
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


def test_what_was_remarked_of_files_is_said_again_where_the_same_run_reads_their_features_from_the_cache(
    tmp_path, caplog
):
    for number in range(8):
        path = tmp_path / "scans" / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = [Image.fromarray(np.full((40, 40, 3), 20 * number + page, np.uint8)) for page in range(2)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    data, features = DataConfig(str(tmp_path / "scans")), FeatureConfig(cache=tmp_path / "cache", image_size=32)
    manifest, extractor = make_manifest(data, features, 0), build_extractor(features)
    remark, run = "8 files of several pages or frames: the first was taken", tmp_path / "run" / "seed-0"
    run.mkdir(parents=True)
    for found in (0, 8, 8):
        caplog.clear()
        with caplog.at_level("INFO", "cutonce"):
            report = extract_features(extractor, manifest, run)
        assert report.hits == found
        assert caplog.text.count(remark) == 1
        assert str(json.loads((run / "extraction.json").read_text())["notes"]).count(remark) == 1
    others = build_extractor(replace(features, cut="blocks.3"))
    assert extract_features(others, manifest, None).remarks
    assert extract_features(others, manifest, run).remarks == []  # those of other features are not theirs

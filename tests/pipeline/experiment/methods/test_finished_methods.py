"""A method of a run is found again by the same training, and replaced by no other one unasked."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.methods.finished_methods import find_finished, require_same_features, require_same_settings
from pipeline.experiment.models.model_card import read_recipe
from stages.config.features import FeatureConfig
from stages.config.heads import HeadConfig

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1" / "run" / "seed-0" / "linear-ridge"
OPTIONS = {**asdict(FeatureConfig(image_size=64, precision="fp32")), **asdict(HeadConfig(("ridge",), cv=3))}


@pytest.fixture
def ridge(tmp_path) -> Path:
    """A method that has kept its options."""
    shutil.copytree(FIXTURE, tmp_path / "linear-ridge")
    stored = json.loads((FIXTURE / "result.json").read_text())
    options = json.loads(json.dumps(OPTIONS, default=str))
    del options["crop_mode"]  # as before there was a choice
    (tmp_path / "linear-ridge" / "result.json").write_text(json.dumps({**stored, "options": options}))
    return tmp_path / "linear-ridge"


def test_the_same_training_is_found_and_knows_its_options(ridge):
    finished = find_finished(ridge, read_recipe(ridge).identity.__eq__, OPTIONS, overwrite=False)
    assert finished.options["cv"] == 3
    assert finished.options["head"] == ["ridge"]
    assert finished.to_json()["options"] == finished.options
    assert Result.load(FIXTURE).options == {}  # of a version that did not keep them


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cut": "blocks.3"}, "`cut` auto, and this command says blocks.3"),
        ({"cv": 0}, "`cv` 3, and this command says 0"),
        ({"image_size": None, "device": "cuda"}, "`image_size` 64, and this command says its default"),
        ({"scalers": ("l2",), "pool": "max"}, "`pool` avg, .* says max; with `scalers` none standard, .* says l2"),
        ({"metric": "f1_macro"}, "`metric` accuracy, and this command says f1_macro"),
        ({"crop_mode": "squash"}, "`crop_mode` center, and this command says squash"),
        (
            {"scalers": (), "cut": ""},
            "`cut` auto, .* says none; with `scalers` none standard, and this command says none",
        ),
        ({}, "on other features, or with options that it did not keep"),
    ],
)
def test_another_training_is_refused_with_both_values_and_what_to_do(ridge, changes, words):
    with pytest.raises(
        UsageError, match=rf"linear-ridge was trained .*{words}\. It is not replaced .* `overwrite`"
    ) as refused:
        find_finished(ridge, "another".__eq__, {**OPTIONS, **changes}, overwrite=False, remedy="a `name` of its own, ")
    assert "device" not in str(refused.value)
    assert "a `name` of its own, or `overwrite`" in str(refused.value)
    assert find_finished(ridge, "another".__eq__, {**OPTIONS, **changes}, overwrite=True) is None


def test_where_columns_are_taken_their_cells_may_be_what_differs(ridge):
    stored = json.loads((ridge / "result.json").read_text())
    (ridge / "result.json").write_text(json.dumps({**stored, "options": {**stored["options"], "columns": ["area"]}}))
    with pytest.raises(
        UsageError, match="trained on other features, on other cells of the table, or with options that"
    ):
        find_finished(ridge, "another".__eq__, {**OPTIONS, "columns": ("area",)}, overwrite=False)


def test_of_a_fine_tuning_the_options_of_heads_are_named_where_no_other_differ(ridge):
    stored = json.loads((ridge / "result.json").read_text())
    stored["options"] |= {"unfreeze": "3", "epochs": 6}
    (ridge / "result.json").write_text(json.dumps(stored))
    tuning = {**OPTIONS, "unfreeze": "3", "epochs": 6, "cv": 5}
    with pytest.raises(UsageError, match=r"trained with `epochs` 6, and this command says 9\."):
        find_finished(ridge, "another".__eq__, {**tuning, "epochs": 9}, overwrite=False)
    with pytest.raises(UsageError, match=r"trained with `unfreeze` 3, and this command says 'layer4,'\."):
        find_finished(ridge, "another".__eq__, {**tuning, "unfreeze": "layer4,"}, overwrite=False)
    with pytest.raises(UsageError, match=r"trained with `cv` 3, and this command says 5\."):
        find_finished(ridge, "another".__eq__, tuning, overwrite=False)


def test_a_method_of_version_1_kept_the_options_of_its_features(ridge):
    with pytest.raises(UsageError, match=r"with `cut` auto, and this command says blocks.3\."):
        find_finished(FIXTURE, "another".__eq__, {**OPTIONS, "cut": "blocks.3"}, overwrite=False)


def test_other_features_are_refused_before_they_are_computed(ridge):
    require_same_features(ridge, ["a fingerprint"], OPTIONS)  # a card that knows none
    card = json.loads((ridge / "model.json").read_text())
    (ridge / "model.json").write_text(json.dumps({**card, "features_fingerprint": "a fingerprint"}))
    require_same_features(ridge, ["a fingerprint"], OPTIONS)
    with pytest.raises(UsageError, match="`cut` auto, and this command says layer3"):
        require_same_features(ridge, ["another"], {**OPTIONS, "cut": "layer3"})


def test_what_is_not_complete_may_be_trained(tmp_path):
    assert find_finished(tmp_path, "any".__eq__, OPTIONS, overwrite=False) is None


def test_other_settings_are_refused_before_anything_is_computed(ridge):
    require_same_settings(ridge, {**OPTIONS, "cv": 5}, ["c_values"], "")
    with pytest.raises(UsageError, match=r"trained with `cv` 3, and this command says 5\..* or `overwrite`"):
        require_same_settings(ridge, {**OPTIONS, "cv": 5}, ["cv", "c_values"], "")
    require_same_settings(ridge.parent / "another", {**OPTIONS, "cv": 5}, ["cv"], "")  # which the run has not

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.errors import DataError
from pipeline.experiment.experiment import Experiment
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

FIXTURE = Path(__file__).parent / "fixtures" / "version_1" / "run" / "seed-0"


@pytest.fixture
def experiment():
    return Experiment(SimpleNamespace(fingerprint="a cache"), Manifest.load(FIXTURE / "manifest.csv"), 0, FIXTURE)


def test_splits_are_those_of_the_manifest_and_the_task_has_its_classes(experiment):
    splits = {name: experiment.split(name) for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in splits.items()} == {"train": 15, "val": 3, "test": 6}
    assert set().union(*(part.keys for part in splits.values())) == set(experiment.manifest.keys)
    assert experiment.task.to_json() == {"name": "single_label", "class_names": ["blue", "green", "red"]}


def test_splits_that_a_metric_says_nothing_of_are_refused_before_training(experiment):
    experiment.require_defined_scores()  # accuracy is defined for any
    manifest, task = experiment.manifest, MultiLabel(["car", "tree"])
    targets = np.zeros((len(manifest), 2), np.float32)
    targets[manifest.indices("val"), 0] = 1
    unlabelled_test = replace(experiment, manifest=replace(manifest, task=task, targets=targets))
    with pytest.raises(DataError, match=r"mAP is not defined for the 6 test samples.*larger splits"):
        unlabelled_test.require_defined_scores()
    targets[manifest.indices("test")[0], 1] = 1
    replace(experiment, manifest=replace(manifest, task=task, targets=targets)).require_defined_scores()
    constant = replace(manifest, task=Regression(), targets=np.ones((len(manifest), 1)))
    with pytest.raises(DataError, match="R² is not defined for the 3 val samples"):
        replace(experiment, manifest=constant).require_defined_scores()
    by_rank = replace(constant, task=Regression(primary="spearman"))
    with pytest.raises(DataError, match="rank correlation is not defined for the 3 val samples"):
        replace(experiment, manifest=by_rank).require_defined_scores()
    varied = replace(by_rank, targets=np.arange(len(manifest), dtype=np.float64)[:, None])
    replace(experiment, manifest=varied).require_defined_scores()  # though answers that are all the same have no ranks


@pytest.mark.parametrize("constant", [0.0, 2.0])
def test_a_kappa_of_samples_of_one_class_is_refused_whatever_is_predicted(experiment, constant):
    manifest, task = experiment.manifest, Regression(levels=("mild", "moderate", "severe"))
    targets = np.arange(len(manifest), dtype=np.float64)[:, None] % 3
    replace(experiment, manifest=replace(manifest, task=task, targets=targets)).require_defined_scores()
    targets[manifest.indices("test")] = constant
    with pytest.raises(DataError, match="quadratic kappa is not defined for the 6 test samples"):
        replace(experiment, manifest=replace(manifest, task=task, targets=targets)).require_defined_scores()


def test_a_rank_correlation_of_numbers_that_vary_is_not_refused(experiment):
    manifest, task = experiment.manifest, Regression(primary="spearman")
    targets = np.arange(len(manifest), dtype=np.float64)[:, None]
    replace(experiment, manifest=replace(manifest, task=task, targets=targets)).require_defined_scores()
    targets[manifest.indices("val")] = 3.0
    with pytest.raises(DataError, match="rank correlation is not defined for the 3 val samples"):
        replace(experiment, manifest=replace(manifest, task=task, targets=targets)).require_defined_scores()


def test_fingerprint_changes_with_all_that_shapes_a_method_and_nothing_else(experiment):
    settings, manifest = {"cv": 3}, experiment.manifest
    same = experiment.fingerprint(settings)
    assert replace(experiment, directory=Path("elsewhere")).fingerprint(settings) == same
    relabelled = replace(manifest, targets=np.roll(manifest.targets, 1))
    changed_fingerprints = [
        experiment.fingerprint({"cv": 5}),
        replace(experiment, seed=1).fingerprint(settings),
        replace(experiment, extractor=SimpleNamespace(fingerprint="another")).fingerprint(settings),
        replace(experiment, manifest=relabelled).fingerprint(settings),
        replace(experiment, manifest=manifest.select(np.arange(20))).fingerprint(settings),
        replace(experiment, manifest=replace(manifest, task=SingleLabel("abc"))).fingerprint(settings),
        replace(experiment, manifest=replace(manifest, task=manifest.task.with_primary("f1_macro"))).fingerprint(
            settings
        ),
    ]
    assert len({same, *changed_fingerprints}) == 1 + len(changed_fingerprints)


def test_fingerprint_knows_the_task_where_it_is_not_one_class_a_sample(experiment):
    other = SimpleNamespace(class_names=experiment.task.class_names, to_json=lambda: {"name": "other", "unit": "m"})
    elsewhere = SimpleNamespace(class_names=experiment.task.class_names, to_json=lambda: {"name": "other", "unit": "s"})
    tasks = (experiment.task, other, elsewhere)
    manifests = [replace(experiment.manifest, task=task) for task in tasks]
    assert len({replace(experiment, manifest=manifest).fingerprint({}) for manifest in manifests}) == 3


def test_options_are_known_by_the_names_they_had_in_version_1(experiment):
    assert experiment.fingerprint({"cv": 3}) == experiment.fingerprint({"folds": 3})
    assert "cv" in {field.name for field in fields(HeadConfig)}

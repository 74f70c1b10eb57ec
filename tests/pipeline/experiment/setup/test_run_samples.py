"""What a run has results of: other samples, labels and splits are refused, moved images are not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.experiment.setup.run_samples import require_same_samples, seeds_with_results
from pipeline.options.toml_file import write_configuration
from stages.config.data import DataConfig
from stages.data.manifest import Manifest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1" / "run"
DATA = DataConfig("photos", test_size=0.25, val_size=0.2)


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "run")
    write_configuration(tmp_path / "run" / "config.toml", DATA)
    return tmp_path / "run"


@pytest.fixture
def manifest() -> Manifest:
    return Manifest.load(FIXTURE / "seed-0" / "manifest.csv")


def test_the_same_samples_are_taken_wherever_they_lie_and_in_whatever_order(run, manifest):
    assert seeds_with_results(run) == [0]
    moved = replace(manifest, locations=[f"elsewhere/{location}" for location in manifest.locations])
    require_same_samples(run, 0, replace(DATA, data="elsewhere"), moved.select(np.arange(len(moved))[::-1]))
    require_same_samples(run, 1, DATA, replace(manifest, splits=manifest.splits[::-1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda samples: samples.select(np.arange(20)), "images: 4 fewer"),
        (lambda samples: replace(samples, targets=np.roll(samples.targets, 1)), "images: 3 with another label"),
        (lambda samples: replace(samples, splits=["test", *samples.splits[1:]]), "images: 1 in another split"),
        (lambda samples: replace(samples, keys=["f" * 32, *samples.keys[1:]]), "images: 1 more, 1 fewer"),
    ],
)
def test_other_samples_than_those_of_the_results_are_refused_and_counted(run, manifest, change, words):
    assert manifest.splits[0] != "test"
    with pytest.raises(
        UsageError, match=rf"run has results of other samples \({words}\): what `data` photos gives has"
    ):
        require_same_samples(run, 0, DATA, change(manifest))


def test_both_values_of_an_option_are_named(run, manifest):
    other = replace(DATA, test_size=0.5)
    drawn = replace(manifest, splits=manifest.splits[::-1])
    words = r"this command says `test_size` 0.5 and the run was made with 0.25. Say what the run says, or give another `out`"
    for seed in (
        0,
        1,
    ):  # another seed has other splits in any case, and other shares of them only where they were given
        with pytest.raises(UsageError, match=words):
            require_same_samples(run, seed, other, drawn)
    require_same_samples(run, 1, other, manifest)  # the source has splits of its own: the shares mean nothing


def test_a_run_without_results_takes_any(run, manifest):
    for result in run.rglob("result.json"):
        result.unlink()
    require_same_samples(run, 0, DATA, manifest.select(np.arange(5)))


def test_a_run_of_before_an_option_was_made_with_what_is_its_default_now(run, manifest):
    kept = [
        line for line in (run / "config.toml").read_text().splitlines() if not line.startswith(("group", "folders"))
    ]
    (run / "config.toml").write_text("\n".join(kept))
    drawn = replace(manifest, splits=manifest.splits[::-1])
    with pytest.raises(UsageError, match="says `group_column` patient and the run was made with not given"):
        require_same_samples(run, 0, replace(DATA, group_column="patient"), drawn)
    with pytest.raises(UsageError, match="says `folders` classes and the run was made with not given"):
        require_same_samples(run, 0, replace(DATA, folders="classes"), drawn)
    together = replace(drawn, groups=["p1"] * len(drawn))
    with pytest.raises(
        UsageError, match=r"kept together now that were not then\. Say `group_by` none, or give another"
    ):
        require_same_samples(run, 0, DATA, together)

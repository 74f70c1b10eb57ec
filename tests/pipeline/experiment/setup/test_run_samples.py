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
from stages.data.manifest import Manifest, load_targets
from stages.tasks.dense import Dense
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel

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
    taken = require_same_samples(run, 0, replace(DATA, data="elsewhere"), moved.select(np.arange(len(moved))[::-1]))
    assert (taken.keys, taken.splits, taken.locations) == (moved.keys, moved.splits, moved.locations)
    assert taken.targets.tolist() == moved.targets.tolist()
    require_same_samples(run, 1, DATA, replace(manifest, splits=manifest.splits[::-1]))


def test_numbers_in_another_order_are_on_the_very_scale_of_the_run(run, manifest):
    task = Regression(("price",))
    numbers = replace(
        manifest, task=task, targets=load_targets(task, [str(0.1 + 0.7 * number) for number in range(len(manifest))])
    )
    numbers = numbers.with_splits(numbers.splits)
    numbers.save(run / "seed-0" / "manifest.csv")
    off = replace(numbers.task, mean=tuple(np.nextafter(numbers.task.mean, 0)))  # as of a sum in another order
    turned = replace(numbers, task=off, targets=load_targets(off, numbers.target_texts)).select(
        np.arange(len(numbers))[::-1]
    )
    taken = require_same_samples(run, 0, DATA, turned)
    assert (taken.task, taken.keys) == (numbers.task, numbers.keys)
    assert taken.targets.tolist() == numbers.targets.tolist()


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


def test_a_mask_that_was_moved_is_the_same_and_one_that_was_painted_over_is_not(run, manifest):
    masks = [f"{number:032x}" for number in range(len(manifest))]
    dense = replace(manifest, task=Dense(manifest.class_names), target_keys=masks, targets=np.array(manifest.locations))
    dense.save(run / "seed-0" / "manifest.csv")
    moved = replace(dense, targets=np.array([f"elsewhere/{location}" for location in dense.locations]))
    require_same_samples(run, 0, DATA, moved)
    with pytest.raises(UsageError, match=r"\(images: 1 with another label\)"):
        require_same_samples(run, 0, DATA, replace(dense, target_keys=["f" * 32, *masks[1:]]))


def test_groups_stay_together_whatever_they_are_called(run, manifest):
    groups = [str(number // 2) for number in range(len(manifest))]
    replace(manifest, groups=groups).save(run / "seed-0" / "manifest.csv")
    require_same_samples(run, 0, DATA, replace(manifest, groups=[f"patient {group}" for group in groups]))
    with pytest.raises(UsageError, match=r"\(images: 6 in another group\): what `data` photos gives has changed"):
        require_same_samples(run, 0, DATA, replace(manifest, groups=["1", *groups[1:-1], ""]))
    with pytest.raises(UsageError, match=f"{len(manifest)} in another group.*says `group_by` none and"):
        require_same_samples(run, 0, replace(DATA, group_by="none"), manifest)


def test_labels_are_read_as_they_were(run, manifest):
    numbers = [str(number % 7 + 1) for number in range(len(manifest))]
    for task, changed, words in (
        (Regression(("price",)), Regression(("price",), log=True), "`log_target` True and the run was made with False"),
        (
            MultiLabel(list("1234567")),
            SingleLabel(list("1234567")),
            "`task` single_label and the run was made with auto",
        ),
    ):
        then, now = (replace(manifest, task=one, targets=load_targets(one, numbers)) for one in (task, changed))
        then.save(run / "seed-0" / "manifest.csv")
        require_same_samples(run, 0, DATA, then)
        other = replace(DATA, log_target=True) if "log" in words else replace(DATA, task="single_label")
        with pytest.raises(UsageError, match=rf"\(labels are read otherwise\): this command says {words}"):
            require_same_samples(run, 0, other, now)


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

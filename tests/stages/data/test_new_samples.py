"""Samples for a task that was trained before: targets are matched by name, and what does not match is said or refused."""

import numpy as np
import pytest

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.new_samples import load_new_samples
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.tasks.single_label import SingleLabel
from tests.photographs import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("new")
    make_folder(place / "photos", 3)
    return place


def table(folder, header, rows):
    path = folder / "table.csv"
    images = sorted((folder / "photos").rglob("*.jpg"))
    lines = [f"{image},{row}" for image, row in zip(images, rows, strict=False)]
    path.write_text("\n".join([f"path,{header}", *lines]) + "\n")
    return path


def test_classes_are_matched_by_name_whatever_their_order_and_number(folder):
    names = sorted(path.name for path in (folder / "photos").iterdir())
    task = SingleLabel(["unseen", *reversed(names)])
    samples = load_new_samples(DataConfig(str(folder / "photos"), task="single_label"), task)
    assert samples.task is task
    assert set(samples.splits) == {"test"}
    for location, target in zip(samples.locations, samples.targets, strict=True):
        assert f"/{task.class_names[target]}/" in location
    assert any(note.startswith("no sample is of unseen: ") for note in samples.notes)


def test_a_class_that_the_run_does_not_know_is_refused_or_left_out_and_counted(folder):
    first, *others = sorted(path.name for path in (folder / "photos").iterdir())
    options, task = DataConfig(str(folder / "photos"), task="single_label"), SingleLabel([*others, f"{first}s"])
    with pytest.raises(DataError, match=rf"3 samples of .* that the run does not know: {first} \(3\).*Did you mean"):
        load_new_samples(options, task)
    samples = load_new_samples(options, task, leave_out_unknown=True)
    assert len(samples) == 3 * len(others)
    assert any(f"3 samples, {first} (3)" in note for note in samples.notes)
    with pytest.raises(DataError, match=r"no sample of .* has a target that the run knows"):
        load_new_samples(options, SingleLabel(["a", "b"]), leave_out_unknown=True)


def test_one_class_alone_is_enough_to_be_tested_on(folder):
    first = sorted(path for path in (folder / "photos").iterdir())[0].name
    rows = [first] * 3
    samples = load_new_samples(
        DataConfig(str(table(folder, "label", rows)), task="single_label"), SingleLabel([first, "other"])
    )
    assert samples.targets.tolist() == [0, 0, 0]


def test_labels_without_a_column_are_not_known_and_without_a_1_are_absent(folder):
    task = MultiLabel(["a", "b", "c", "d"])
    path = table(folder, "c,a,b", ["1,0,0", "0,1,0", "1,1,"])
    samples = load_new_samples(DataConfig(str(path), task="multi_label", target=("a", "b", "c")), task)
    nan = np.nan
    expected = [[0, 0, 1, nan], [1, 0, 0, nan], [1, nan, 1, nan]]
    assert np.array_equal(samples.targets, np.array(expected, dtype=np.float32), equal_nan=True)
    assert not samples.extra
    with pytest.raises(DataError, match=r"targets that the run does not know: a \(1\), c\|a"):
        load_new_samples(DataConfig(str(path), task="multi_label", target=("a", "b", "c")), MultiLabel(["b", "c"]))


def test_numbers_come_on_the_scale_of_the_run(folder):
    task = Regression(("price",), (10.0,), (4.0,))
    path = table(folder, "price", ["14", "10", "6"])
    samples = load_new_samples(DataConfig(str(path), task="regression", target=("price",)), task)
    assert samples.targets.tolist() == [[1.0], [0.0], [-1.0]]


def test_splits_of_the_source_are_all_taken_unless_one_is_named(folder):
    first, *_ = sorted(path.name for path in (folder / "photos").iterdir())
    path = table(folder, "label,split", [f"{first},train", f"{first},test", f"{first},test"])
    options, task = DataConfig(str(path), task="single_label"), SingleLabel([first, "other"])
    samples = load_new_samples(options, task)
    assert len(samples) == 3
    assert any("(train 1, test 2) are all taken; `split` names one" in note for note in samples.notes)
    assert len(load_new_samples(options, task, split="test")) == 2
    with pytest.raises(UsageError, match=r"`split` val: .* has no such split; it has train, test"):
        load_new_samples(options, task, split="val")


def test_samples_without_labels_are_refused(folder):
    path = folder / "paths.csv"
    path.write_text("path\n" + "\n".join(map(str, sorted((folder / "photos").rglob("*.jpg")))) + "\n")
    with pytest.raises(DataError, match="Without labels there is nothing to evaluate by; `predict` needs none"):
        load_new_samples(DataConfig(str(path), task="single_label"), SingleLabel(["a", "b"]))

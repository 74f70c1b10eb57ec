import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from stages.data.manifest import Manifest
from stages.data.sample import ImageRef, Sample
from stages.tasks.single_label import SingleLabel

TASK = SingleLabel(["cat", "dog"])


@pytest.fixture
def manifest():
    return Manifest(["a", "b", "c"], np.array([1, 0, 1]), ["train", "val", "test"], ["k", "l", "m"], TASK)


def test_a_manifest_gives_its_rows_as_records(manifest):
    samples = list(manifest)
    assert samples[1] == Sample((ImageRef("b", "l"),), "cat", "val")
    assert [sample.target for sample in samples] == ["dog", "cat", "dog"]
    assert [manifest[index] for index in range(len(manifest))] == samples
    assert manifest[-1] == manifest[np.int64(2)] == samples[2]


def test_a_row_that_is_not_there_is_an_error(manifest):
    for index in (3, -4):
        with pytest.raises(IndexError):
            manifest[index]


def test_a_record_has_room_for_several_images_and_cannot_be_changed():
    sample = Sample((ImageRef("left.jpg", "k"), ImageRef("right.jpg", "l")), "cat", group="P1", extra={"age": "7"})
    assert pickle.loads(pickle.dumps(sample)) == sample
    with pytest.raises(FrozenInstanceError):
        sample.target = "dog"


def test_a_record_has_the_group_of_its_row(manifest):
    grouped = Manifest(
        manifest.locations, manifest.targets, manifest.splits, manifest.keys, TASK, groups=["", "P1", "P2"]
    )
    assert [sample.group for sample in grouped] == ["", "P1", "P2"]
    assert grouped[2].group == "P2"

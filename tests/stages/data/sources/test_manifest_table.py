"""A manifest is a table of samples: what is read of it is what was saved, with all images of each, and with its masks."""

import json

import numpy as np
import pytest

from cache.errors import DataError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest
from stages.data.sample import ImageRef
from stages.data.sources.csv_file import read_sample_table
from stages.data.sources.manifest_table import load_images, save_images, saved_samples
from stages.data.tiled_manifest import tiled_manifest
from stages.tasks.tiles import Tiling
from tests.dense_images import make_dense_folder
from tests.stages.data.pictures import write_images

VIEWS = [(0, 1, None), (2, None, 3), (None, 4, None), (5, 6, 7), (8, 9, 10), (None, 11, 12)]
"""The photographs of each sample."""


@pytest.fixture
def rooms(tmp_path):
    """A table of six samples of up to three views, with a column of its own besides."""
    write_images(tmp_path, {"photos": 14})
    rows = [
        ",".join(
            [
                *("" if view is None else f"photos/{view:03}.png" for view in views),
                "dog" if number % 2 else "cat",
                f"{number}",
            ]
        )
        for number, views in enumerate(VIEWS)
    ]
    (tmp_path / "rooms.csv").write_text("\n".join(["left,right,back,label,sample", *rows]))
    return tmp_path / "rooms.csv"


@pytest.fixture
def saved(rooms, tmp_path):
    """Where the manifest of that table lies, and itself."""
    manifest = load_manifest(DataConfig(str(rooms), images=("left", "right", "back"), test_size=0.34, val_size=0.34))
    manifest.save(tmp_path / "run" / "manifest.csv")
    return tmp_path / "run" / "manifest.csv", manifest


def assert_same(read, manifest):
    assert (read.locations, read.keys, read.splits) == (manifest.locations, manifest.keys, manifest.splits)
    assert (read.images, read.extra, read.groups) == (manifest.images, manifest.extra, manifest.groups)
    assert (read.target_texts, read.task, read.digest) == (manifest.target_texts, manifest.task, manifest.digest)
    assert (read.mask_classes, read.target_keys) == (manifest.mask_classes, manifest.target_keys)


@pytest.mark.parametrize("images", [(), ("left", "right", "back")], ids=["without options", "with those of the run"])
def test_samples_of_several_images_come_with_all_of_them(saved, images):
    path, manifest = saved
    assert any(None in views for views in manifest.images)
    assert_same(load_manifest(DataConfig(str(path), images=images)), manifest)


def test_rows_that_were_moved_or_taken_out_keep_their_images_and_new_ones_have_one(saved, rooms):
    path, manifest = saved
    header, first, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(others), f"{rooms.parent}/photos/013.png,cat,train,,9"]))
    read = load_manifest(DataConfig(str(path)))
    assert read.images[:-1] == manifest.images[:0:-1]
    assert [image.location for image in read.images[-1]] == [f"{rooms.parent}/photos/013.png"]


def test_they_are_predicted_as_samples_too(saved):
    path, manifest = saved
    records, _ = read_sample_table(path, DataConfig("", images=("left", "right", "back")))
    assert records.images == [
        tuple(None if image is None else image.location for image in views) for views in manifest.images
    ]


def test_another_table_of_that_name_says_nothing(rooms):
    rooms.with_suffix(".images.csv").write_text("path,label\na.png,cat\n")
    assert saved_samples(rooms) == {}
    assert saved_samples(rooms.with_name("none.csv")) == {}


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".images.csv", "sample,place,path,key\n0,0,a.png,1\n"),
        (".images.csv", "sample,place,path,key\nx,0,a.png,1\n"),
        (".images.csv", "sample,place,path,key\n" + "\n".join(f"{sample},7,a.png,1" for sample in range(6))),
        (".images.csv", "sample,place,path,key\n0,0\n"),
        (".images.csv", "sample,place,path,key\n\n"),
        (".json", "[]"),
        (".json", "no JSON"),
        (".json", None),
    ],
    ids=["too few", "no number", "no such place", "short", "empty row", "other JSON", "no JSON", "no file"],
)
def test_images_that_cannot_be_read_are_refused(saved, ending, text):
    path, _ = saved
    path.with_suffix(ending).unlink() if text is None else path.with_suffix(ending).write_text(text)
    with pytest.raises(DataError, match=r"manifest(\.images)?\.csv (is not what was written|has samples of several)"):
        load_manifest(DataConfig(str(path)))
    with pytest.raises(DataError, match="manifest"):
        Manifest.load(path)


def test_places_that_are_missing_come_back(tmp_path):
    images = [(None, ImageRef("b", "2")), (ImageRef("c", "3"), None, None)]
    save_images(tmp_path / "some.csv", images)
    assert load_images(tmp_path / "some.csv", [2, 3]) == images


@pytest.mark.parametrize("task", ["auto", "dense"])
def test_labels_that_are_masks_are_masks_with_the_classes_that_they_had(tmp_path, task):
    folder = make_dense_folder(tmp_path / "dense")
    (folder / "classes.csv").write_text("value,name\n0,sky\n1,block\n2,ground\n")
    manifest = load_manifest(DataConfig(str(folder)))
    assert manifest.mask_classes.names == ("sky", "block", "ground")
    manifest.save(tmp_path / "run" / "manifest.csv")
    assert_same(load_manifest(DataConfig(str(tmp_path / "run" / "manifest.csv"), task=task)), manifest)


def test_tiles_are_read_as_the_images_that_they_were_cut_from(tmp_path):
    manifest = load_manifest(DataConfig(str(make_dense_folder(tmp_path / "dense"))))
    tiled = tiled_manifest(manifest, Tiling(32, 32, 8))
    assert len(tiled) > len(manifest)
    tiled.save(tmp_path / "run" / "manifest.csv")
    read = load_manifest(DataConfig(str(tmp_path / "run" / "manifest.csv")))
    assert read.digest == manifest.digest
    np.testing.assert_array_equal(np.sort(read.targets), np.sort(manifest.targets))


def test_masks_whose_classes_stand_nowhere_are_surveyed_and_damage_is_named(tmp_path):
    manifest = load_manifest(DataConfig(str(make_dense_folder(tmp_path / "dense"))))
    path = tmp_path / "run" / "manifest.csv"
    manifest.save(path)
    path.with_suffix(".json").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"manifest\.json does not say which classes the masks of manifest\.csv hold"):
        load_manifest(DataConfig(str(path)))
    path.with_suffix(".json").unlink()
    assert load_manifest(DataConfig(str(path))).mask_classes == manifest.mask_classes

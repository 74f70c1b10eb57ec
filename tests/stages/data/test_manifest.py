import json
import os
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import DigestCache, key_of_bytes
from cache.errors import DataError
from stages.config.data import SPLITS, DataConfig
from stages.data.manifest import Manifest, load_manifest, load_targets
from stages.tasks.base import TASKS, register_task
from stages.tasks.multi_label import MultiLabel
from stages.tasks.single_label import SingleLabel
from tests.photographs import make_folder
from tests.plug_ins import forget_afterwards
from tests.stages.data.pictures import write_images

AWKWARD = ["a,b", 'say "hi"', "new\nline", "\N{TULIP}", os.fsdecode(b"\xff\xfe"), "#comment", " space "]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", {"cat": 10, "dog": 15, "bird": 12})
    return tmp_path / "images"


def assert_same(one: Manifest, other: Manifest) -> None:
    for name in ("locations", "splits", "keys", "task", "unreadable", "notes", "groups", "strata", "extra"):
        assert getattr(one, name) == getattr(other, name), name
    assert np.array_equal(one.targets, other.targets)
    assert one.targets.dtype == other.targets.dtype == np.int64


def test_a_folder_becomes_a_manifest(folder):
    manifest = load_manifest(DataConfig(str(folder)))
    assert len(manifest) == 37
    assert manifest.class_names == ("bird", "cat", "dog")
    for location, target, key in zip(manifest.locations, manifest.targets, manifest.keys, strict=True):
        assert f"/{manifest.class_names[target]}/" in location
        assert key == key_of_bytes(Path(location).read_bytes())
    counts = {split: Counter(manifest.select(manifest.indices(split)).target_texts) for split in SPLITS}
    assert counts == {
        "train": {"bird": 7, "cat": 6, "dog": 9},
        "val": {"bird": 2, "cat": 2, "dog": 2},
        "test": {"bird": 3, "cat": 2, "dog": 4},
    }
    assert manifest.summary() == ["37 images", "3 classes", "train 22", "val 6", "test 9"]


def test_classes_that_look_the_same_are_noted(tmp_path):
    folder = make_folder(tmp_path / "photographs", 3, ("leaf", "sea"))
    (folder / "leaf").rename(folder / "caf\u00e9")
    (folder / "sea").rename(folder / "cafe\u0301")
    manifest = load_manifest(DataConfig(str(folder)))
    assert len(manifest.class_names) == 2
    (note,) = (note for note in manifest.notes if "look the same" in note)
    assert "caf\u00e9 (composed)" in note
    assert "cafe\u0301 (decomposed)" in note


def test_moving_the_folder_changes_no_split(folder, tmp_path):
    before = load_manifest(DataConfig(str(folder)), seed=3)
    shutil.move(folder, tmp_path / "elsewhere")
    after = load_manifest(DataConfig(str(tmp_path / "elsewhere")), seed=3)
    assert (after.splits, after.keys) == (before.splits, before.keys)


def test_the_same_images_as_folder_and_as_table_get_the_same_splits(folder, tmp_path):
    by_folder = load_manifest(DataConfig(str(folder)))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(folder.rglob("*.png"), reverse=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]))
    by_table = load_manifest(DataConfig(str(tmp_path / "table.csv")))
    split_of = dict(zip(by_folder.keys, by_folder.splits, strict=True))
    assert split_of == dict(zip(by_table.keys, by_table.splits, strict=True))


def test_indices_and_select_agree(folder):
    manifest = load_manifest(DataConfig(str(folder)))
    indices = manifest.indices("val")
    assert indices.dtype == np.int64
    subset = manifest.select(indices)
    assert set(subset.splits) == {"val"}
    assert subset.locations == [manifest.locations[index] for index in indices]
    assert subset.task == manifest.task
    assert subset.target_texts == [manifest.class_names[target] for target in manifest.targets[indices]]
    assert manifest.select([5, 2]).keys == [manifest.keys[5], manifest.keys[2]]
    assert len(manifest.select([])) == 0
    assert sum(len(manifest.indices(split)) for split in ("train", "val", "test")) == 37


def test_saved_and_loaded_is_the_same(tmp_path):
    write_images(tmp_path / "images", dict.fromkeys(AWKWARD, 4))
    (tmp_path / "images" / AWKWARD[0] / f"{AWKWARD[2]}.jpg").symlink_to("gone")
    manifest = load_manifest(DataConfig(str(tmp_path / "images")))
    assert manifest.unreadable
    manifest.save(tmp_path / "run" / "manifest.csv")
    assert_same(Manifest.load(tmp_path / "run" / "manifest.csv"), manifest)


def test_class_order_survives_where_it_is_not_alphabetical_and_some_are_empty(tmp_path):
    manifest = Manifest(
        ["x", "y"], np.array([2, 0]), ["train", "test"], ["k", "l"], SingleLabel(["zebra", "cat", "ant"])
    )
    manifest.save(tmp_path / "manifest.csv")
    assert_same(Manifest.load(tmp_path / "manifest.csv"), manifest)


class Height:
    """A task whose targets are numbers: no classes, hence nothing to be told apart by."""

    name = "height"
    out_features = 1
    reads = "text"

    def load(self, raw):
        return torch.tensor([float(raw.removesuffix(" m"))])

    def decode(self, predicted):
        return f"{predicted.item():g} m"

    def to_json(self):
        return {"name": self.name, "unit": "m"}

    @classmethod
    def from_json(cls, content):
        assert content["unit"] == "m"
        return cls()


def test_targets_are_what_the_task_makes_of_them_and_the_file_says_which_task(tmp_path, monkeypatch):
    forget_afterwards(monkeypatch, TASKS)
    register_task("height")(Height)
    texts = ["1.5 m", "12 m", "1.5 m"]
    manifest = Manifest(list("xyz"), load_targets(Height(), texts), ["train", "val", "test"], list("klm"), Height())
    assert (manifest.targets.shape, manifest.targets.dtype) == ((3, 1), np.float32)
    assert manifest.target_texts == texts
    assert manifest.summary() == ["3 images", "train 1", "val 1", "test 1"]
    manifest.save(tmp_path / "manifest.csv")
    loaded = Manifest.load(tmp_path / "manifest.csv")
    assert isinstance(loaded.task, Height)
    assert np.array_equal(loaded.targets, manifest.targets)
    assert [sample.target for sample in loaded] == texts


def test_what_is_written_of_one_class_a_sample_stays_to_the_byte(tmp_path):
    manifest = Manifest(
        ["x,1", "y"], np.array([2, 0]), ["train", "test"], ["k", "l"], SingleLabel(["zebra", "cat", "ant"]), notes=["n"]
    )
    manifest.save(tmp_path / "manifest.csv")
    table = b'path,label,split,key\r\n"x,1",ant,train,k\r\ny,zebra,test,l\r\n'
    rest = b'{\n "class_names": [\n  "zebra",\n  "cat",\n  "ant"\n ],\n "unreadable": [],\n "notes": [\n  "n"\n ]\n}\n'
    assert (tmp_path / "manifest.csv").read_bytes() == table
    assert (tmp_path / "manifest.json").read_bytes() == rest


def test_an_empty_manifest_survives(tmp_path):
    manifest = Manifest(
        [], np.array([], dtype=np.int64), [], [], SingleLabel(["cat", "dog"]), [("x.jpg", "gone")], ["a note"]
    )
    manifest.save(tmp_path / "manifest.csv")
    assert_same(Manifest.load(tmp_path / "manifest.csv"), manifest)


def test_the_file_is_a_plain_table(folder, tmp_path):
    manifest = load_manifest(DataConfig(str(folder)))
    manifest.save(tmp_path / "manifest.csv")
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    assert lines[0] == "path,label,split,key"
    assert lines[1] == f"{manifest.locations[0]},bird,{manifest.splits[0]},{manifest.keys[0]}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.write_text("a,b\n1,2\n"),
        lambda path: path.write_text(path.read_text().replace("cat", "lion")),
        lambda path: path.write_text(path.read_text() + "one more\n"),
        lambda path: path.write_text(""),
        lambda path: path.with_suffix(".json").write_text("{}"),
        lambda path: path.with_suffix(".json").write_text("not json"),
        lambda path: path.with_suffix(".json").write_text(json.dumps([1])),
    ],
)
def test_a_damaged_manifest_is_a_clear_error(folder, tmp_path, damage):
    path = tmp_path / "manifest.csv"
    load_manifest(DataConfig(str(folder))).save(path)
    damage(path)
    with pytest.raises(DataError, match="manifest"):
        Manifest.load(path)


def test_files_that_cannot_be_read_are_listed_and_are_no_samples(folder):
    (folder / "cat" / "empty.jpg").touch()
    (folder / "cat" / "link.jpg").symlink_to(folder / "gone.jpg")
    manifest = load_manifest(DataConfig(str(folder)))
    assert len(manifest) == 37
    assert dict(manifest.unreadable) == {
        str(folder / "cat" / "empty.jpg"): "the file is empty",
        str(folder / "cat" / "link.jpg"): "a link to a file that does not exist",
    }


def test_empty_files_in_two_given_splits_are_no_leakage(tmp_path):
    paths = write_images(tmp_path, {f"{split}/{label}": 4 for split in ("train", "test") for label in ("cat", "dog")})
    paths[0].write_bytes(b"")
    paths[-1].write_bytes(b"")
    assert len(load_manifest(DataConfig(str(tmp_path)))) == 14


def test_a_class_of_which_nothing_can_be_read_is_left_out_and_noted(folder):
    (folder / "fish").mkdir()
    (folder / "fish" / "a.jpg").touch()
    manifest = load_manifest(DataConfig(str(folder)))
    assert manifest.class_names == ("bird", "cat", "dog")
    assert "no image of class fish can be read: left out" in manifest.notes


def test_the_same_image_in_two_given_splits_is_refused_by_name_unless_allowed(tmp_path):
    write_images(tmp_path, {f"{split}/{label}": 4 for split in ("train", "test") for label in ("cat", "dog")})
    shutil.copy(tmp_path / "train" / "cat" / "001.png", tmp_path / "test" / "cat" / "copy.png")
    with pytest.raises(DataError, match=r"train/cat/001\.png") as caught:
        load_manifest(DataConfig(str(tmp_path)))
    assert "test/cat/copy.png" in str(caught.value)
    allowed = load_manifest(DataConfig(str(tmp_path), allow_leakage=True))
    assert len(allowed) == 17
    assert any("copy.png" in note for note in allowed.notes)


def test_copies_go_to_one_split(folder):
    for index in range(10):
        shutil.copy(folder / "dog" / f"{index:03}.png", folder / "dog" / f"copy-{index}.png")
    manifest = load_manifest(DataConfig(str(folder)))
    split_of = {}
    for key, split in zip(manifest.keys, manifest.splits, strict=True):
        assert split_of.setdefault(key, split) == split


def test_one_class_is_refused(tmp_path):
    write_images(tmp_path, {"cat": 5})
    with pytest.raises(DataError, match="one class only, 'cat'"):
        load_manifest(DataConfig(str(tmp_path)))


def test_a_table_whose_files_are_all_missing_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("path,label\na.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(DataError, match=r"none of the 2 files could be read; the first: .*a\.jpg: No such file"):
        load_manifest(DataConfig(str(tmp_path / "table.csv")))


def test_keys_are_remembered_by_the_memo(folder, tmp_path):
    memo = DigestCache(tmp_path / "keys.sqlite")
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    first = load_manifest(DataConfig(str(folder)), memo=memo, progress=progress)
    assert seen == [37]
    assert (tmp_path / "keys.sqlite").exists()
    assert load_manifest(DataConfig(str(folder)), memo=DigestCache(tmp_path / "keys.sqlite")).keys == first.keys


def test_a_memo_that_cannot_be_written_is_a_note_and_no_error(folder):
    memo = DigestCache(folder / "cat" / "000.png" / "keys.sqlite")
    manifest = load_manifest(DataConfig(str(folder)), memo=memo)
    assert len(manifest) == 37
    assert any("not remembered" in note for note in manifest.notes)


@pytest.fixture
def patients(tmp_path):
    """A table of 48 images of two classes, four of each of 12 patients, one of them unreadable."""
    paths = write_images(tmp_path / "images", {"healthy": 24, "ill": 24})
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},P{int(path.stem) // 2}" for path in paths]
    paths[5].write_bytes(b"")
    (tmp_path / "table.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    return tmp_path / "table.csv"


def test_every_sample_has_its_group_and_no_group_is_torn_apart(patients):
    manifest = load_manifest(DataConfig(str(patients)))
    assert len(manifest) == len(manifest.groups) == 47
    splits = {}
    for location, group, split in zip(manifest.locations, manifest.groups, manifest.splits, strict=True):
        assert group == f"P{int(Path(location).stem) // 2}"
        assert splits.setdefault(group, split) == split
    assert set(splits.values()) == {"train", "val", "test"}
    assert manifest.summary()[:3] == ["47 images", "2 classes", "12 groups"]
    assert manifest.select([7, 3]).groups == [manifest.groups[7], manifest.groups[3]]


def test_samples_of_a_group_have_one_number_and_those_of_none_their_own():
    manifest = Manifest(list("vwxyz"), np.zeros(5, np.int64), ["train"] * 5, list("abcde"), SingleLabel(["cat"]))
    assert manifest.group_numbers is None
    assert replace(manifest, groups=["", "p", "q", "", "p"]).group_numbers.tolist() == [0, 1, 2, 3, 1]


def test_groups_survive_saving_and_a_saved_manifest_is_a_source_of_the_same_groups(patients, tmp_path):
    manifest = load_manifest(DataConfig(str(patients)))
    manifest.save(tmp_path / "run" / "manifest.csv")
    assert_same(Manifest.load(tmp_path / "run" / "manifest.csv"), manifest)
    assert load_manifest(DataConfig(str(tmp_path / "run" / "manifest.csv"))).groups == manifest.groups


@pytest.fixture
def visits(tmp_path):
    """A table of 40 images of two classes with strata and two columns of its own, one of the images unreadable."""
    paths = write_images(tmp_path / "images", {"healthy": 20, "ill": 20})
    rows = [f'{path.relative_to(tmp_path)},{path.parent.name},{"ab"[index % 2]},{index},"a, {path.name}"'
            for index, path in enumerate(paths)]  # fmt: skip
    paths[5].write_bytes(b"")
    (tmp_path / "table.csv").write_text("\n".join(["path,label,stratum,Age,site name", *rows]) + "\n")
    return tmp_path / "table.csv"


def check_visits(manifest: Manifest) -> None:
    """Each sample has the values of its own row."""
    for sample in manifest:
        place, (image,) = int(sample.extra["Age"]), sample.images
        assert sample.extra == {"Age": str(place), "site name": f"a, {Path(image.location).name}"}
        assert int(Path(image.location).stem) == place % 20
        assert sample.target == ("healthy" if place < 20 else "ill")
        assert sample.stratum == "ab"[place % 2]


def test_columns_of_the_table_go_with_their_samples(visits):
    manifest = load_manifest(DataConfig(str(visits)))
    assert len(manifest) == 39
    check_visits(manifest)
    for split in SPLITS:
        part = manifest.select(manifest.indices(split)[::-1])
        check_visits(part)
        assert {sample.split for sample in part} == {split}
    check_visits(pickle.loads(pickle.dumps(manifest)))  # as it goes from one process to the others


def test_columns_of_the_table_survive_saving_and_change_no_split(visits, tmp_path):
    manifest = load_manifest(DataConfig(str(visits)))
    manifest.save(tmp_path / "run" / "manifest.csv")
    loaded = Manifest.load(tmp_path / "run" / "manifest.csv")
    assert_same(loaded, manifest)
    check_visits(loaded)
    header = (tmp_path / "run" / "manifest.csv").read_text().splitlines()[0]
    assert header == "path,label,split,key,stratum,Age,site name"
    visits.write_text("\n".join(",".join(row.split(",")[:3]) for row in visits.read_text().splitlines()))
    without = load_manifest(DataConfig(str(visits)))
    assert (without.splits, without.extra) == (manifest.splits, {})


def test_a_saved_manifest_is_a_source_of_the_same_columns(visits, tmp_path):
    manifest = load_manifest(DataConfig(str(visits)))
    manifest.save(tmp_path / "run" / "manifest.csv")
    again = load_manifest(DataConfig(str(tmp_path / "run" / "manifest.csv")))
    assert (again.extra, again.strata, again.splits) == (manifest.extra, manifest.strata, manifest.splits)


@pytest.mark.parametrize("name", ["key", "group", "stratum"])
def test_an_extra_column_cannot_be_taken_for_one_of_the_manifest(name):
    manifest = Manifest(["x"], np.array([0]), ["train"], ["k"], SingleLabel(["cat"]))
    with pytest.raises(DataError, match=f"columns of its own called {name}"):
        replace(manifest, extra={name: ["1"]})


def test_a_manifest_of_before_there_were_groups_still_loads(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,label,split,key\na.jpg,cat,train,00\nb.jpg,dog,test,11\n")
    (tmp_path / "manifest.json").write_text('{"class_names": ["cat", "dog"], "unreadable": [], "notes": ["a note"]}')
    manifest = Manifest.load(tmp_path / "manifest.csv")
    assert (manifest.groups, manifest.keys, manifest.select([1]).groups) == ([], ["00", "11"], [])


def test_a_group_in_two_given_splits_is_refused_by_name_unless_allowed(patients):
    header, *rows = patients.read_text().splitlines()
    lines = [f"{row},{'test' if row.endswith(('P1', 'P2')) else 'train'}" for row in rows]
    patients.write_text("\n".join([f"{header},split", *lines]) + "\n")
    assert len(load_manifest(DataConfig(str(patients)))) == 47
    lines[0] = lines[0].replace("train", "test")
    patients.write_text("\n".join([f"{header},split", *lines]) + "\n")
    with pytest.raises(DataError, match=r"the same group is in two of the given splits \(1\): P0: .*healthy/000\.png"):
        load_manifest(DataConfig(str(patients)))
    allowed = load_manifest(DataConfig(str(patients), allow_leakage=True))
    assert any("P0: " in note and "allowed by `allow_leakage`" in note for note in allowed.notes)


def test_folders_inside_the_classes_come_into_one_split_each_and_flat_ones_change_nothing(tmp_path):
    patients = [f"{label}/p{number}" for label in ("ill", "well") for number in range(8)]
    write_images(tmp_path / "images", dict.fromkeys(patients, 3))
    manifest = load_manifest(DataConfig(str(tmp_path / "images")))
    assert all(
        len({manifest.splits[index] for index in range(48) if manifest.groups[index] == f"p{p}"}) == 1 for p in range(8)
    )
    alone = load_manifest(DataConfig(str(tmp_path / "images"), group_by="none"))
    assert (alone.groups, alone.keys) == ([], manifest.keys)
    for path in sorted((tmp_path / "images").rglob("*.png")):  # the same images without folders between
        path.rename(path.parent.parent / f"{path.parent.name}x{path.name}")
    flat = load_manifest(DataConfig(str(tmp_path / "images")))
    assert dict(zip(flat.keys, flat.splits, strict=True)) == dict(zip(alone.keys, alone.splits, strict=True))


def test_where_groups_leave_a_split_empty_the_option_that_ends_them_is_told(tmp_path):
    write_images(tmp_path / "images", {"ill/a": 3, "well/a": 3})
    with pytest.raises(DataError, match=r"too few groups to make .*; or let groups be torn apart with `group_by` none"):
        load_manifest(DataConfig(str(tmp_path / "images"), group_by="folder"))


def targets_table(tmp_path, text, count=24):
    """Write a table beside images 0.png, 1.png, ... and return what it is read as."""
    write_images(tmp_path, {"images": count})
    for index, path in enumerate(sorted((tmp_path / "images").glob("*.png"))):
        path.rename(tmp_path / "images" / f"{index}.png")
    (tmp_path / "images" / "table.csv").write_text(text)
    return str(tmp_path / "images" / "table.csv")


def test_rows_of_one_image_are_one_sample_with_all_their_labels(tmp_path):
    rows = [f"{index}.png,{'sun' if index % 2 else 'rain'}" for index in range(24)]
    rows += ["0.png,sun", "1.png,sun|wind", *(f"{index}.png,wind" for index in range(2, 8))]
    table = targets_table(tmp_path, "\n".join(["path,labels", *rows]))
    manifest = load_manifest(DataConfig(table))
    assert isinstance(manifest.task, MultiLabel)
    assert len(manifest) == 24
    assert manifest.target_texts[:3] == ["rain|sun", "sun|wind", "rain|wind"]
    assert manifest.targets[:2].tolist() == [[1, 1, 0], [0, 1, 1]]
    assert "images that are there several times: 8; each counts once, with the labels of all of them" in manifest.notes
    assert manifest.summary()[:2] == ["24 images", "3 labels"]
    manifest.save(tmp_path / "run" / "manifest.csv")
    loaded = Manifest.load(tmp_path / "run" / "manifest.csv")
    assert (loaded.task, loaded.target_texts) == (manifest.task, manifest.target_texts)
    assert np.array_equal(loaded.targets, manifest.targets)


def test_labels_that_look_the_same_are_noted(tmp_path):
    names = ("caf\u00e9", "cafe\u0301")
    rows = [f"{index}.png,{names[index % 2]}" for index in range(24)]
    manifest = load_manifest(DataConfig(targets_table(tmp_path, "\n".join(["path,labels", *rows]))))
    assert any(note.startswith("2 labels look the same, and are not: ") for note in manifest.notes)


def test_a_file_in_two_class_folders_has_both_labels_where_it_may_have_several(folder):
    for name in ("000.png", "001.png", "002.png", "003.png"):
        shutil.copy(folder / "cat" / name, folder / "dog" / f"also-{name}")
    (note,) = [note for note in load_manifest(DataConfig(str(folder))).notes if "two labels" in note]
    assert note.endswith("if all of them hold, say `task` multi_label")
    manifest = load_manifest(DataConfig(str(folder), task="multi-label"))
    assert len(manifest) == 37
    assert Counter(manifest.target_texts) == {"bird": 12, "cat": 6, "cat|dog": 4, "dog": 15}


def test_an_image_in_two_given_splits_is_refused_with_several_labels_too(tmp_path):
    rows = [f"{index}.png,{'sun' if index % 2 else 'rain'},{'train' if index < 20 else 'test'}" for index in range(24)]
    table = targets_table(tmp_path, "\n".join(["path,labels,split", *rows, "0.png,sun,test"]))
    with pytest.raises(DataError, match="the same image is in two of the given splits"):
        load_manifest(DataConfig(table))
    allowed = load_manifest(DataConfig(table, allow_leakage=True))
    assert [allowed.target_texts[0], allowed.target_texts[-1]] == ["rain|sun"] * 2


@pytest.mark.parametrize("log", [False, True])
def test_numbers_are_on_the_scale_of_the_training_samples(tmp_path, log):
    prices = [f"{10 + 1.5**index:.2f}" for index in range(24)]
    rows = [f"{index}.png,{price},{index}" for index, price in enumerate(prices)]
    table = targets_table(tmp_path, "\n".join(["path,price,area", *rows]))
    manifest = load_manifest(DataConfig(table, target="price", log_target=log))
    numbers = np.array(prices, dtype=float)
    expected = np.log(numbers) if log else numbers
    trained = expected[manifest.indices("train")]
    assert np.allclose(manifest.targets[:, 0], (expected - trained.mean()) / trained.std(), rtol=1e-12)
    assert (manifest.target_texts, list(manifest.extra)) == ([f"{price:.12g}" for price in numbers], ["area"])
    manifest.save(tmp_path / "run" / "manifest.csv")
    assert np.array_equal(Manifest.load(tmp_path / "run" / "manifest.csv").targets, manifest.targets)


def test_features_are_extracted_whatever_is_wrong_with_targets(tmp_path):
    table = targets_table(tmp_path, "path,label,patient\n0.png,0.5,a\n1.png,1.5,b\n")
    with pytest.raises(DataError, match="say `task` regression"):
        load_manifest(DataConfig(table))
    manifest = load_manifest(DataConfig(table), labels=False)
    assert (len(manifest), manifest.splits) == (2, ["train"] * 2)

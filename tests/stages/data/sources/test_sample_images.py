"""Which images are of one sample, in which order, and what becomes of those that are missing."""

import shutil

import pytest

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest
from stages.data.sample import ImageRef
from stages.data.sources.csv_file import list_csv
from stages.data.sources.folder import list_folder
from tests.stages.data.pictures import write_images


def table_of(tmp_path, text, **options):
    (tmp_path / "table.csv").write_text(text)
    return list_csv(DataConfig(str(tmp_path / "table.csv"), **options))


def names(records):
    """The names of the files of each sample."""
    return [[view and view.rpartition("/")[2] for view in views] for views in records.images]


def test_columns_of_paths_are_the_images_of_a_sample_in_their_order(tmp_path):
    text = "kitchen,frontal,label,bath,price\nk1.jpg,f1.jpg,cat,b1.jpg,7\n,f2.jpg,dog,b2.jpg,8\n"
    records = table_of(tmp_path, text, images=("frontal", "kitchen", "bath"))
    assert names(records) == [["f1.jpg", "k1.jpg", "b1.jpg"], ["f2.jpg", None, "b2.jpg"]]
    assert records.locations == [str(tmp_path / "f1.jpg"), str(tmp_path / "f2.jpg")]
    assert records.extra == {"price": ["7", "8"]}
    assert "views that are missing, of 2 samples: kitchen in 1" in records.notes
    with pytest.raises(DataError, match=r"line 2: no frontal and no bath$"):
        table_of(tmp_path, "frontal,bath,label\n, ,cat\n", images="frontal,bath")
    with pytest.raises(UsageError, match=r"`images` front: there is no such column.*Did you mean 'frontal'"):
        table_of(tmp_path, text, images="front,bath")


def test_numbered_paths_are_found_and_a_single_path_stays_what_it_was(tmp_path):
    records = table_of(tmp_path, "path,label,path_10,path_2\na.jpg,cat,c.jpg,b.jpg\n")
    assert names(records) == [["a.jpg", "b.jpg", "c.jpg"]]
    assert table_of(tmp_path, "path,label,path_to_mask\na.jpg,cat,m.png\n").images == []


@pytest.mark.parametrize(
    ("places", "order"),
    [
        (("", "", ""), ["1.png", "2.png", "10.png"]),
        (("3", "20", "1"), ["1.png", "10.png", "2.png"]),
        (("0.5", "0.25", "0.125"), ["1.png", "2.png", "10.png"]),
    ],
    ids=["natural order of names", "frames by value", "times in seconds"],
)
def test_rows_of_one_sample_stand_in_the_order_of_frame_else_of_their_names(tmp_path, places, order):
    rows = zip(("10.png", "2.png", "1.png"), places, strict=True)
    lines = [f"{path},dog,clip 7,{place},left" for path, place in rows]
    text = "\n".join(["path,label,Sample,Frame,side", *lines, "z.png,cat,,,right"])
    records = table_of(tmp_path, text)
    assert names(records) == [order, ["z.png"]]
    assert records.targets == ["dog", "cat"]
    assert records.extra == {"Sample": ["clip 7", ""], "side": ["left", "right"]}
    assert any("4 rows are 2 samples, by the column Sample and in the order of Frame" in note for note in records.notes)


def test_rows_are_joined_only_where_they_can_be_one_sample(tmp_path):
    each = "path,label,sample\na.png,cat,1\nb.png,dog,2\n"
    differing = "path,label,sample\na.png,cat,1\nb.png,dog,1\nc.png,dog,2\n"
    same = "path,label,sample,split\na.png,cat,1,train\nb.png,cat,1,test\nc.png,dog,2,train\n"
    assert table_of(tmp_path, each).images == []
    records = table_of(tmp_path, differing)
    assert records.images == []
    assert len(records.locations) == 3
    assert any("have different labels (1)" in note for note in records.notes)
    with pytest.raises(DataError, match=r"the rows of sample 1 have different values of split: test, train"):
        table_of(tmp_path, same)
    for apart in ({"sample": "image"}, {"group_column": "sample"}):
        assert table_of(tmp_path, same, **apart).locations == [str(tmp_path / f"{name}.png") for name in "abc"]


@pytest.fixture
def clips(tmp_path):
    """Two classes of three clips of 3, 12 and 3 frames, called 0.png, 1.png, ..."""
    seed = 0
    for name in ("cat", "dog"):
        for number, count in enumerate((3, 12, 3)):
            clip = tmp_path / "clips" / name / f"{name}_{number}"
            for index, path in enumerate(write_images(tmp_path / "clips" / name, {f"{name}_{number}": count}, seed)):
                path.rename(clip / f"{index}.png")
            seed += count
    return tmp_path / "clips"


def test_folders_in_the_classes_are_samples_where_the_options_say_so(clips):
    assert list_folder(DataConfig(str(clips))).images == []
    whole = list_folder(DataConfig(str(clips), sample="folder"))
    assert [len(views) for views in whole.images] == [3, 12, 3, 3, 12, 3]
    assert names(whole)[1] == [f"{number}.png" for number in range(12)]
    assert whole.targets == ["cat"] * 3 + ["dog"] * 3
    assert whole.subfolders == []
    four = list_folder(DataConfig(str(clips), frames=4))
    assert names(four)[1] == ["1.png", "4.png", "7.png", "10.png"]
    assert names(four)[0] == ["0.png", "1.png", "2.png"]
    assert any("4 of 6 samples have fewer than 4 images" in note for note in four.notes)
    shutil.move(clips / "cat" / "cat_0" / "0.png", clips / "cat" / "0.png")
    assert ["0.png"] in names(list_folder(DataConfig(str(clips), sample="folder")))


def test_options_of_samples_that_cannot_be_are_refused(clips, tmp_path):
    for folder in ("cat", "dog"):
        write_images(tmp_path / "flat", {folder: 3})
    with pytest.raises(UsageError, match="in the classes are neither folders nor videos"):
        list_folder(DataConfig(str(tmp_path / "flat"), frames=4))
    with pytest.raises(UsageError, match="`images` names columns of a table"):
        list_folder(DataConfig(str(clips), images="a,b"))
    with pytest.raises(UsageError, match="`frames` chooses among the images of a sample, and here each sample is one"):
        table_of(tmp_path, "path,label\na.png,cat\n", frames=4)
    with pytest.raises(UsageError, match="`frames` is for folders and tables of files"):
        load_manifest(DataConfig("digits", frames=4))
    with pytest.raises(UsageError, match="give one of them"):
        DataConfig("table.csv", images="a,b", frames=2)


def test_a_manifest_keeps_the_images_of_each_sample(clips, tmp_path):
    (clips / "cat" / "cat_2" / "1.png").write_bytes(b"")
    manifest = load_manifest(DataConfig(str(clips), sample="folder", test_size=0.3, val_size=0.3))
    assert manifest.summary()[0] == "6 samples of 35 images"
    assert manifest.unreadable == [(str(clips / "cat" / "cat_2" / "1.png"), "the file is empty")]
    images = manifest.images[2]
    assert images[1] is None
    refs = [
        ImageRef(str(path), key_of_bytes(path.read_bytes())) for path in sorted((clips / "cat" / "cat_2").iterdir())
    ]
    assert [images[0], images[2]] == [refs[0], refs[2]]
    assert manifest.keys[2] == key_of_bytes(f"{refs[0].key},,{refs[2].key}".encode())
    assert manifest[2].images == (refs[0], refs[2])
    assert manifest.locations[2] == refs[0].location
    assert any("1 samples have fewer images than are named" in note for note in manifest.notes)
    assert len(manifest.distinct_images.keys) == 35
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv").images == manifest.images
    by_image = manifest.by_image()
    assert len(by_image) == 35
    assert len(set(by_image.groups)) == 6
    assert not by_image.images


def test_a_sample_without_a_readable_image_is_named(clips):
    for path in (clips / "dog" / "dog_0").iterdir():
        path.write_bytes(b"")
    manifest = load_manifest(DataConfig(str(clips), sample="folder", test_size=0.3, val_size=0.3))
    assert len(manifest) == 5
    (note,) = (note for note in manifest.notes if "without a readable image" in note)
    assert str(clips / "dog" / "dog_0" / "0.png") in note


def test_what_extraction_cannot_read_leaves_its_sample_with_the_others(clips):
    manifest = load_manifest(DataConfig(str(clips), sample="folder", test_size=0.3, val_size=0.3))
    first, *_ = manifest.images[0]
    others = manifest.without_images({first.key})
    assert others.images[0] == (None, *manifest.images[0][1:])
    assert others.keys == manifest.keys
    assert len(manifest.without_images({image.key for image in manifest.images[0]})) == 5


def test_where_shared_images_leave_one_group_it_is_told_what_joined_them_and_how_to_go_on(tmp_path):
    write_images(tmp_path, {"views": 13})
    lines = [f"views/{row:03}.png,views/012.png,{['cat', 'dog'][row % 2]}" for row in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["front,plan,label", *lines]))
    with pytest.raises(
        DataError,
        match=r"share an image are one group, 12 of 12 by images as \S+012\.png: .* leave the column .* out of `images`",
    ):
        load_manifest(DataConfig(str(tmp_path / "table.csv"), images="front,plan"))
    assert set(load_manifest(DataConfig(str(tmp_path / "table.csv"), images="front")).splits) == {
        "train",
        "val",
        "test",
    }


def test_samples_that_share_an_image_are_in_one_split(tmp_path):
    write_images(tmp_path, {"views": 60})
    lines = [f"views/{2 * row:03}.png,views/{2 * row + 1:03}.png,{['cat', 'dog'][row % 2]}" for row in range(30)]
    shutil.copy(tmp_path / "views" / "000.png", tmp_path / "views" / "003.png")  # of the first two samples
    (tmp_path / "table.csv").write_text("\n".join(["front,back,label", *lines]))
    for seed in range(5):
        manifest = load_manifest(DataConfig(str(tmp_path / "table.csv"), images="front,back"), seed)
        assert manifest.splits[0] == manifest.splits[1]
        assert manifest.groups[0] == manifest.groups[1] != ""
        assert set(manifest.groups[2:]) == {""}
    assert any("2 samples share images with others" in note for note in manifest.notes)

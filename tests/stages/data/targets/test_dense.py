"""Folders and tables of tiny images with masks, from the files to the manifest."""

import numpy as np
import pytest
from PIL import Image

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.manifest import Manifest, load_manifest
from stages.data.masks.mask_classes import read_mask
from stages.data.new_samples import load_new_samples
from stages.tasks.dense import Dense
from tests.stages.data.masks.pictures import save_folder, save_pair


def loaded(root, **options):
    return load_manifest(DataConfig(str(root), **options))


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "seg")


def test_a_folder_of_masks_is_a_manifest_of_locations_of_masks_by_itself(folder):
    manifest = loaded(folder)
    assert manifest.task == Dense(("0", "1", "2"))
    assert set(manifest.splits) == {"train", "val", "test"}
    assert manifest.target_texts == [
        location.replace("images", "masks").replace("jpg", "png") for location in manifest.locations
    ]
    assert any("the task is dense: there is a mask for each image" in note for note in manifest.notes)


def test_a_manifest_of_masks_comes_back_from_its_file(folder):
    manifest = loaded(folder)
    manifest.save(folder / "manifest.csv")
    again = Manifest.load(folder / "manifest.csv")
    assert (again.task, again.mask_classes, again.digest) == (manifest.task, manifest.mask_classes, manifest.digest)
    assert again.target_texts == manifest.target_texts
    assert again.select([1]).target_keys == manifest.target_keys[1:2]
    assert again[1].target == manifest.target_texts[1]


def test_a_mask_that_was_mended_is_another_target_and_a_folder_that_was_moved_is_not(folder):
    before = loaded(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert loaded(moved).digest == before.digest
    save_pair(moved / "unused.jpg", moved / "masks/3.png", seed=99)
    assert loaded(moved).digest != before.digest


def test_a_table_of_paths_and_masks_is_read_with_its_other_columns(folder):
    rows = [f"images/{number}.jpg,masks/{number}.png,{'train' if number else 'test'},{number}" for number in range(8)]
    (folder / "table.csv").write_text("\n".join(["path,mask,split,weather", *rows]))
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")
    manifest = loaded(folder / "table.csv")
    assert manifest.class_names == ("sky", "road", "car")
    assert manifest.extra["weather"] == [str(number) for number in range(8)]
    assert manifest.target_texts[3] == str(folder / "masks/3.png")


def test_a_column_of_labels_beside_one_of_masks_is_what_is_predicted_unless_the_task_is_named(folder):
    rows = [f"images/{number}.jpg,masks/{number}.png,{'ab'[number % 2]}" for number in range(8)]
    (folder / "table.csv").write_text("\n".join(["path,mask,label", *rows]))
    assert loaded(folder / "table.csv").class_names == ("a", "b")
    assert loaded(folder / "table.csv", task="dense").class_names == ("0", "1", "2")


def test_images_without_a_mask_are_left_out_by_name_and_one_that_cannot_be_read_is_listed_with_the_reason(folder):
    (folder / "masks/2.png").unlink()
    (folder / "masks/5.png").write_bytes(b"no image")
    manifest = loaded(folder)
    assert len(manifest) == 6
    assert any("images without a mask: 1, left out" in note and "2.jpg" in note for note in manifest.notes)
    [(image, reason)] = manifest.unreadable
    assert image.endswith("5.jpg")
    assert "its mask" in reason


def test_a_mask_of_another_size_in_the_same_proportions_is_taken_and_said(folder):
    Image.open(folder / "masks/1.png").resize((33, 25), 0).save(folder / "masks/1.png")
    assert any("1 of 8 masks are of another size" in note and "by nearest" in note for note in loaded(folder).notes)


@pytest.mark.parametrize(
    ("size", "words"), [((16, 10), "is 16 x 10 and its image 16 x 12"), ((12, 16), "lies on its side")]
)
def test_a_mask_of_other_proportions_is_refused_by_name(folder, size, words):
    Image.open(folder / "masks/1.png").resize(size, 0).save(folder / "masks/1.png")
    with pytest.raises(DataError, match=rf"1 of 8 masks have other proportions .*masks/1\.png .*{words}"):
        loaded(folder)


def test_an_image_that_its_exif_turns_is_as_large_as_it_is_seen(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "images/1.jpg").save(folder / "images/1.jpg", exif=exif)
    with pytest.raises(DataError, match="lies on its side"):
        loaded(folder)
    Image.open(folder / "masks/1.png").transpose(Image.Transpose.ROTATE_270).save(folder / "masks/1.png")
    assert len(loaded(folder)) == 8


def test_masks_saved_as_jpeg_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"saved as JPEG, which smears .*: 8 of 8 masks, the first .*0\.jpg"):
        loaded(save_folder(tmp_path, ending=".jpg"))


def test_classes_that_no_mask_of_a_split_holds_are_said(tmp_path):
    for split, values in (("train", (0, 1)), ("val", (0, 1)), ("test", (0, 2))):
        for number in range(2):
            name = f"{split}{number}"
            save_pair(
                tmp_path / split / "images" / f"{name}.jpg",
                tmp_path / split / "masks" / f"{name}.png",
                10 * number + len(split),
                values,
            )
    notes = loaded(tmp_path).notes
    assert "no train mask holds 2: it cannot be learned" in notes
    assert "training pixels by class: 0 50 %, 1 50 %" in notes
    assert any(note.startswith("no test mask holds 1: left out of mean IoU there") for note in notes)


def test_options_of_masks_are_for_masks_and_masks_are_asked_for(folder, tmp_path):
    with pytest.raises(UsageError, match="`ignore_label` is for `task` dense"):
        loaded(folder, task="single_label", ignore_label=("0",))
    (tmp_path / "t.csv").write_text("path,label\nseg/images/0.jpg,a\nseg/images/1.jpg,b\n")
    with pytest.raises(DataError, match="masks can be read; the first"):
        loaded(tmp_path / "t.csv", task="dense", target=("label",))
    with pytest.raises(UsageError, match="`data` digits has no masks"):
        loaded("digits", task="dense")


def test_masks_and_classes_may_be_colors_named_in_a_file(tmp_path):
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 0]], dtype=np.uint8)
    for number in range(6):
        save_pair(tmp_path / f"images/{number}.jpg", None, number)
        (tmp_path / "masks").mkdir(exist_ok=True)
        indices = np.random.default_rng(number).permutation(np.resize(np.arange(3), 192)).reshape(12, 16)
        Image.fromarray(colors[indices]).save(tmp_path / f"masks/{number}.png")
    (tmp_path / "classes.csv").write_text("name,r,g,b\ngrass,0,255,0\nroof,255,0,0\nvoid,0,0,0\n")
    manifest = loaded(tmp_path)
    assert manifest.class_names == ("grass", "roof")
    assert manifest.mask_classes.colors == (0x00FF00, 0xFF0000)


def test_new_masks_are_read_by_the_classes_of_the_model_that_they_test(folder, tmp_path):
    known = loaded(folder)
    new = tmp_path / "new"
    for number in range(3):  # one class of three occurs, and void
        save_pair(new / f"images/{number}.jpg", new / f"masks/{number}.png", 50 + number, (1, 255))
    manifest = load_new_samples(DataConfig(str(new)), known.task, mask_classes=known.mask_classes)
    assert manifest.class_names == known.class_names
    assert set(manifest.splits) == {"test"}
    assert np.unique(read_mask(manifest.target_texts[0], manifest.mask_classes)).tolist() == [1, 255]
    (new / "classes.csv").write_text("name,value\n2,1\n0,7\n")  # the same classes under other numbers
    manifest = load_new_samples(DataConfig(str(new)), known.task, mask_classes=known.mask_classes)
    assert np.unique(read_mask(manifest.target_texts[0], manifest.mask_classes)).tolist() == [2, 255]


def test_what_the_model_was_trained_without_stands_for_no_class_in_new_masks_of_that_name(folder, tmp_path):
    (folder / "classes.txt").write_text("ground\nroof\ntree\n")
    for ignored in ("tree", "2"):
        known = loaded(folder, ignore_label=(ignored,))
        known.save(tmp_path / "manifest.csv")
        known = Manifest.load(tmp_path / "manifest.csv")
        assert known.class_names == ("ground", "roof")
        new = tmp_path / "new"
        for number in range(2):
            save_pair(new / f"images/{number}.jpg", new / f"masks/{number}.png", 50 + number, (0, 1, 7))
        (new / "classes.csv").write_text("name,value\nroof,0\nground,1\ntree,7\n")
        manifest = load_new_samples(DataConfig(str(new)), known.task, mask_classes=known.mask_classes)
        assert np.unique(read_mask(manifest.target_texts[0], manifest.mask_classes)).tolist() == [0, 1, 255]
        assert any("tree stands for no class" in note for note in manifest.notes)


def test_what_stands_for_no_class_in_new_masks_can_be_said(folder, tmp_path):
    known = loaded(folder)
    new = tmp_path / "new"
    for number in range(2):
        save_pair(new / f"images/{number}.jpg", new / f"masks/{number}.png", 50 + number, (1, 9))
    said = load_new_samples(DataConfig(str(new), ignore_label=("9",)), known.task, mask_classes=known.mask_classes)
    assert np.unique(read_mask(said.target_texts[0], said.mask_classes)).tolist() == [1, 255]
    with pytest.raises(UsageError, match="`ignore_label` boat is not a number"):
        load_new_samples(DataConfig(str(new), ignore_label=("boat",)), known.task, mask_classes=known.mask_classes)
    (new / "classes.csv").write_text("name,value\n1,1\nboat,9\n")
    said = load_new_samples(DataConfig(str(new), ignore_label=("boat",)), known.task, mask_classes=known.mask_classes)
    assert np.unique(read_mask(said.target_texts[0], said.mask_classes)).tolist() == [1, 255]


def test_new_masks_with_what_the_model_does_not_know_are_refused_by_name(folder, tmp_path):
    known = loaded(folder)
    new = tmp_path / "new"
    for number in range(2):
        save_pair(new / f"images/{number}.jpg", new / f"masks/{number}.png", 50 + number, (1, 9))
    with pytest.raises(DataError, match=r"2 of 2 masks hold what is no class of the model; the first: .*0\.png: 9"):
        load_new_samples(DataConfig(str(new)), known.task, mask_classes=known.mask_classes)
    (new / "classes.csv").write_text("name,value\n1,1\nboat,9\n")
    with pytest.raises(DataError, match=r"classes\.csv names boat, which the model does not know"):
        load_new_samples(DataConfig(str(new)), known.task, mask_classes=known.mask_classes)

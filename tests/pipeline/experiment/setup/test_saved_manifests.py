import pytest

from cache import key_of_file
from cache.errors import DataError, UsageError
from pipeline.experiment.setup.saved_manifests import load_all, load_one, saved_manifests
from tests.photographs import make_folder
from tests.pipeline.caches import KEYS, make_manifest, make_run
from tests.stages.data.pictures import write_images


def test_a_run_means_the_manifests_of_its_seeds_in_order(tmp_path):
    run = make_run(tmp_path / "run", KEYS[:3], KEYS[3:6], KEYS[6:9])  # seeds 11, 10, 9
    names = ["seed-9", "seed-10", "seed-11"]
    assert [path.parent.name for path in saved_manifests(run)] == names
    assert [manifest.keys for manifest in load_all(str(run), tmp_path)] == [KEYS[6:9], KEYS[3:6], KEYS[:3]]
    assert load_one(run).keys == KEYS[6:9]


def test_a_part_of_a_run_means_the_manifest_of_its_seed_and_not_its_own_figures(tmp_path):
    seed = make_run(tmp_path / "run", KEYS[:3], KEYS[3:6]) / "seed-11"
    method = seed / "finetune-top-1"
    write_images(method, {".": 1})
    (method / "result.json").write_text("{}")
    for part in (seed, method):
        assert [manifest.keys for manifest in load_all(str(part), tmp_path)] == [KEYS[:3]]
    photos = write_images(tmp_path / "photos", {"cat": 2})  # beside a table that happens to be called so
    (tmp_path / "photos" / "manifest.csv").write_text("path,label\n")
    assert [len(manifest) for manifest in load_all(str(tmp_path / "photos"), tmp_path / "cache")] == [len(photos)]


def test_of_tables_of_data_columns_of_images_are_taken(tmp_path):
    folder = make_folder(tmp_path / "photos", per_class=4)
    images = sorted(folder.rglob("*.jpg"))
    table = tmp_path / "table.csv"
    pairs = zip(images[::2], images[1::2], strict=True)
    table.write_text("\n".join(["front,back", *(f"{front},{back}" for front, back in pairs)]))
    for source in (table, folder):
        [manifest] = load_all(str(source), tmp_path / "cache", images=("front", "back"))
        assert set(manifest.distinct_images.keys) == {key_of_file(path) for path in images}
    with pytest.raises(DataError, match="taken with `images`"):
        load_all(str(table), tmp_path / "cache")


def test_a_manifest_file_means_itself(tmp_path):
    make_manifest(KEYS[:5]).save(tmp_path / "manifest.csv")
    assert load_one(tmp_path / "manifest.csv").keys == KEYS[:5]
    assert [manifest.keys for manifest in load_all(str(tmp_path / "manifest.csv"), tmp_path)] == [KEYS[:5]]
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_one(tmp_path / "manifest.csv")


def test_everything_else_is_data_although_the_same_image_stands_in_two_splits(tmp_path):
    folder = make_folder(tmp_path / "photos", per_class=4)
    images = sorted(folder.rglob("*.jpg"))
    table = tmp_path / "table.csv"
    lines = [f"{path},{path.parent.name},{('train', 'test')[number % 2]}" for number, path in enumerate(images)]
    table.write_text("\n".join(["path,label,split", *lines, f"{images[0]},fire,test"]))
    expected = {key_of_file(path) for path in images}
    for source in (folder, table):
        [manifest] = load_all(str(source), tmp_path / "cache")
        assert set(manifest.keys) == expected
    assert (tmp_path / "cache" / "keys.sqlite").exists()  # so that `extract` need not read the files again


def test_of_data_all_images_count_labels_and_splits_or_not(tmp_path):
    for name, counts in {
        "flat": {".": 3},
        "ambiguous": {"train/cat": 2, "eval/cat": 2, "unlabeled": 1},
        "single": {"cat": 1},
        "patients": {f"{label}/{patient}": 2 for label in ("ill", "well") for patient in range(5)},
    }.items():
        images = write_images(tmp_path / name, counts)
        [manifest] = load_all(str(tmp_path / name), tmp_path / "cache")
        assert sorted(manifest.locations) == sorted(map(str, images))


def test_what_is_neither_is_told(tmp_path):
    (tmp_path / "table.csv").write_text("path,label\n")
    for path in (tmp_path, tmp_path / "table.csv", tmp_path / "none"):
        with pytest.raises(UsageError, match=r"neither a run directory \(with seed-\*/manifest\.csv\) nor"):
            load_one(path)
    with pytest.raises(UsageError, match="none: there is no such folder"):
        load_all(str(tmp_path / "none"), tmp_path)

import inspect
import struct
import threading

import numpy as np
import pytest
import torch
from torchvision import datasets

from cache import DigestCache, key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.images.pixel_keys import key_of_pixels
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import Manifest, load_manifest
from stages.data.sources.open_image import read_image
from tests.ready_processes import run
from tests.stages.data.pictures import write_images


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads go to a closed port of this machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def write_idx(folder, prefix, count, classes, seed):
    """Write the two files of one part of an MNIST-like set; return its images and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % classes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return images, labels


@pytest.fixture
def fashion(tmp_path):
    """A root with a small FashionMNIST in it."""
    root = tmp_path / "sets"
    raw = root / "FashionMNIST" / "raw"
    return root, write_idx(raw, "train", 60, 10, 0), write_idx(raw, "t10k", 20, 10, 1)


def test_sets_with_train_and_test_keep_these_splits(fashion):
    root, (train_images, train_labels), (_, test_labels) = fashion
    manifest = load_manifest(DataConfig("torchvision:FashionMNIST", data_root=root))
    assert manifest.class_names[:2] == ("T-shirt/top", "Trouser")
    assert len(manifest.class_names) == 10
    assert manifest.targets.tolist() == [*train_labels, *test_labels]
    assert set(manifest.splits[:60]) == {"train", "val"}
    assert set(manifest.splits[60:]) == {"test"}
    assert manifest.locations[17].startswith("torchvision:FashionMNIST/train/17")
    assert manifest.locations[61].startswith("torchvision:FashionMNIST/test/1")
    image = read_image(manifest.locations[17])
    assert image.shape == (3, 28, 28)
    assert all(np.array_equal(channel, train_images[17]) for channel in image)
    assert manifest.keys[17] == key_of_pixels(image)


def test_locations_can_be_read_in_another_process(fashion, tmp_path):
    root, _, _ = fashion
    manifest = load_manifest(DataConfig("torchvision:FashionMNIST", data_root=root))
    manifest.save(tmp_path / "manifest.csv")
    script = (
        "import sys; from pathlib import Path\n"
        "from stages.data.manifest import Manifest\n"
        "from stages.data.sources.open_image import read_image\n"
        "from stages.data.images.pixel_keys import key_of_pixels\n"
        "manifest = Manifest.load(Path(sys.argv[1]))\n"
        "assert [key_of_pixels(read_image(one)) for one in manifest.locations] == manifest.keys\n"
    )
    run("-c", script, tmp_path / "manifest.csv", check=True)
    assert Manifest.load(tmp_path / "manifest.csv").keys == manifest.keys


def test_the_default_root_stays_out_of_the_locations(fashion, monkeypatch, tmp_path):
    root, _, _ = fashion
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "cutonce").mkdir(parents=True)
    (tmp_path / ".cache" / "cutonce" / "datasets").symlink_to(root)
    manifest = load_manifest(DataConfig("torchvision:FashionMNIST"))
    assert manifest.locations[3] == "torchvision:FashionMNIST/train/3"
    assert key_of_pixels(read_image(manifest.locations[3])) == manifest.keys[3]


def test_a_set_of_several_sets_is_told_which(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    write_idx(raw, "emnist-letters-train", 40, 4, 0)
    write_idx(raw, "emnist-letters-test", 20, 4, 1)
    with pytest.raises(UsageError, match="EMNIST/letters"):
        load_manifest(DataConfig("torchvision:EMNIST", data_root=tmp_path))
    with pytest.raises(UsageError, match=r"'leters'.*letters"):
        load_manifest(DataConfig("torchvision:EMNIST/leters", data_root=tmp_path))
    manifest = load_manifest(DataConfig("torchvision:EMNIST/letters", data_root=tmp_path))
    assert manifest.class_names == ("N/A", "a", "b", "c")
    assert manifest.locations[0].startswith("torchvision:EMNIST/letters/train/0")
    assert key_of_pixels(read_image(manifest.locations[45])) == manifest.keys[45]


def test_a_set_without_splits_is_split_here(monkeypatch):
    defaults = (12, (3, 8, 8), 3, None, None, 0)  # the full 1,000 images of 224 px take seconds
    monkeypatch.setattr(datasets.FakeData.__init__, "__defaults__", defaults)
    manifest = load_manifest(DataConfig("torchvision:FakeData"))
    assert manifest.locations[5].startswith("torchvision:FakeData/5")
    assert set(manifest.splits) == {"train", "val", "test"}
    assert set(manifest.class_names) <= {"0", "1", "2"}
    expected = [key_of_pixels(read_image(location)) for location in manifest.locations]
    assert expected == manifest.keys
    keys_by_location = {}

    def read():  # FakeData seeds the global generator for each image
        for location in manifest.locations * 5:
            keys_by_location.setdefault(location, set()).add(key_of_pixels(read_image(location)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys_by_location == {
        location: {key} for location, key in zip(manifest.locations, manifest.keys, strict=True)
    }


@pytest.mark.skipif(
    "loader" not in inspect.signature(datasets.EuroSAT).parameters, reason="this torchvision opens the files itself"
)
def test_a_set_of_files_is_known_by_its_files(tmp_path):
    paths = write_images(tmp_path / "eurosat" / "2750", {"Forest": 6, "River": 6})
    manifest = load_manifest(
        DataConfig("torchvision:EuroSAT", data_root=tmp_path), memo=DigestCache(tmp_path / "memo.sqlite")
    )
    assert manifest.locations == sorted(map(str, paths))
    assert manifest.keys[0] == key_of_bytes(paths[0].read_bytes())
    assert manifest.class_names == ("Forest", "River")


@pytest.mark.skipif(
    "loader" not in inspect.signature(datasets.Country211).parameters, reason="this torchvision opens the files itself"
)
def test_what_torchvision_calls_valid_is_validation(tmp_path):
    parts = ("train", "valid", "test")
    paths = write_images(tmp_path / "country211", {f"{part}/{label}": 2 for part in parts for label in ("AD", "ZW")})
    manifest = load_manifest(DataConfig("torchvision:Country211", data_root=tmp_path))
    assert manifest.locations == list(map(str, paths))
    assert manifest.splits == ["train"] * 4 + ["val"] * 4 + ["test"] * 4


def test_files_that_cannot_be_downloaded_are_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="could not be had") as caught:
        load_manifest(DataConfig("torchvision:KMNIST", data_root=tmp_path / "empty"))
    message = str(caught.value)
    assert "torchvision:KMNIST" in message
    assert str(tmp_path / "empty") in message
    assert "`data_root`" in message
    assert "\n" not in message


def test_damaged_files_are_a_clear_error(fashion):
    root, _, _ = fashion
    labels = root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:30])
    with pytest.raises(DataError, match="damaged"):
        load_manifest(DataConfig("torchvision:FashionMNIST", data_root=root))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FasionMNIST", "Did you mean 'FashionMNIST'"),
        ("", "no data set ''"),
        ("__doc__", "no data set"),
        ("CocoDetection", "not a classification data set: it needs annFile"),
        ("MNIST/letters", "no parts to choose"),
        ("Places365", r"no part called train: .*train-standard.*torchvision:Places365/PART"),
    ],
)
def test_names_that_cannot_be_right(name, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        load_manifest(DataConfig(f"torchvision:{name}", data_root=tmp_path))


def test_a_set_that_is_not_of_images_with_one_class_is_refused(tmp_path):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", np.zeros((20, 4, 64, 64), dtype=np.uint8))
    with pytest.raises(UsageError, match="samples are not an image with one class"):
        load_manifest(DataConfig("torchvision:MovingMNIST", data_root=tmp_path))


@pytest.mark.parametrize(
    "place",
    ["FashionMNIST/train/9999", "FashionMNIST/train/x", "FashionMNIST/train", "NoSuchSet/train/0", "FashionMNIST"],
)
def test_a_location_that_does_not_exist_is_unreadable(fashion, place):
    root, _, _ = fashion
    with pytest.raises(UnreadableImageError) as caught:
        read_image(f"torchvision:{place}?root={root}")
    assert place in str(caught.value)


def test_progress_wraps_the_samples(fashion):
    root, _, _ = fashion
    lengths = []

    def progress(items):
        lengths.append(len(items))
        return items

    load_manifest(DataConfig("torchvision:FashionMNIST", data_root=root), progress=progress)
    assert lengths == [60, 20]


def test_reading_draws_nothing_from_the_global_generator(fashion):
    root, _, _ = fashion
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load_manifest(DataConfig("torchvision:FashionMNIST", data_root=root))
    assert torch.equal(before, torch.get_rng_state())

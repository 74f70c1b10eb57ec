"""Predictions of images whose features are cached: the numbers of the network, without it."""

import os
import shutil
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest

from cache import DigestCache
from pipeline.cli.app import main
from pipeline.experiment.models import mixture_model
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.experiment.prediction.predict_from_cache import find_cached
from pipeline.library.export_model import open_trained
from tests.saved_methods import make_images, saved_method


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Heads on vectors, on taps and on columns beside vectors, and features of four of six images."""
    folder = tmp_path_factory.mktemp("cached")
    images = make_images(folder / "images", 6)
    for kind in ("linear", "taps", "columns", "attention", "flip", "tuned"):
        directory = saved_method(folder / kind, "resnet18", kind, images, 32, cuts=("layer2,layer3", "layer4"))
        model = open_trained(directory, "cpu")
        root = folder / kind / "cache"
        keys, _ = DigestCache(root / "keys.sqlite").keys([str(path) for path in images])
        known = [str(path) for path in images[:4]]
        batches = model.extractor.computed(model.extractor.request(path, keys[path]) for path in known)
        rows = np.concatenate([batch.rows[0] for batch in batches])
        with model.extractor.taps[0].cache.writer() as writer:
            writer.append([keys[path] for path in known], rows, seconds=1.0)
    return folder, images


def directory_of(folder, kind):
    (directory,) = (folder / kind / "seed-0").glob("*-*")
    return directory


@pytest.mark.parametrize("kind", ["linear", "taps"])
def test_cached_images_are_answered_as_by_the_network_and_the_others_beside_them(folder, kind, caplog):
    folder, images = folder
    directory = directory_of(folder, kind)
    computed, _ = predict_images(directory, images, "cpu", use_cache=False)
    with caplog.at_level("INFO", "cutonce"):
        mixed, unreadable = predict_images(directory, [*images, folder / "bad.png"][:6], "cpu")
    assert "features of 4 of 6 images are from the cache" in caplog.text
    assert ([one.location for one in mixed], unreadable) == ([str(path) for path in images], [])
    for one, other in zip(mixed, computed, strict=True):
        assert np.allclose(one.activated, other.activated, atol=1e-3)  # rows are stored in 16 bits


def test_a_cache_that_cannot_be_told_is_not_needed(folder, caplog):
    folder, images = folder
    directory = directory_of(folder, "linear")
    computed, _ = predict_images(directory, images, "cpu", use_cache=False)
    document = next((folder / "linear" / "cache").glob("*/spec.json"))
    document.rename(document.with_suffix(".away"))
    with caplog.at_level("INFO", "cutonce"):
        answered, _ = predict_images(directory, images, "cpu")
    document.with_suffix(".away").rename(document)
    assert "images go through the network, as the cache cannot be opened: " in caplog.text
    assert np.allclose([one.activated for one in answered], [one.activated for one in computed], atol=1e-6)


def test_where_all_are_cached_no_network_is_loaded_and_no_image_is_opened(folder, monkeypatch, tmp_path):
    folder, images = folder
    monkeypatch.setattr(mixture_model, "open_networks", None)
    for image in images[:4]:  # the same bytes under another name
        shutil.copy(image, tmp_path / f"copy of {image.name}")
    predicted, _ = predict_images(directory_of(folder, "linear"), [tmp_path], "cpu")
    assert len(predicted) == 4
    with pytest.raises(TypeError):
        predict_images(directory_of(folder, "linear"), images[:4], "cpu", use_cache=False)


@pytest.mark.parametrize(("kind", "loaded"), [("linear", []), ("taps", []), ("tuned", ["timm", "torchvision"])])
def test_a_command_answers_from_the_cache_without_importing_what_computes_features(folder, kind, loaded):
    folder, images = folder
    script = "import sys; from pipeline.cli.app import main; code = main(sys.argv[1:]); "
    script += (
        "print('HEAVY', sorted({'timm', 'torchvision', 'sklearn', 'matplotlib', 'pandas'} & sys.modules.keys()), code)"
    )
    command = [sys.executable, "-c", script, "predict", str(folder / kind), *map(str, images[:4])]
    command += ["--method", directory_of(folder, kind).name, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    completed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert f"HEAVY {loaded} 0" in completed.stdout, completed.stdout + completed.stderr
    assert ("from the cache" in completed.stdout) == (not loaded)


def test_another_folder_of_caches_is_looked_into_where_it_is_named(folder, monkeypatch):
    folder, images = folder
    shutil.copytree(folder / "linear" / "cache", folder / "elsewhere", dirs_exist_ok=True)
    recipe = read_recipe(directory_of(folder, "linear"))
    names = [str(path) for path in images]
    found = find_cached(directory_of(folder, "linear"), recipe, names, folder / "elsewhere")
    assert list(found.keys) == [0, 1, 2, 3]
    assert find_cached(directory_of(folder, "linear"), recipe, names, folder / "nowhere") is None


@pytest.mark.parametrize("kind", ["attention", "flip", "tuned"])
def test_what_does_not_take_cached_vectors_is_computed(folder, kind):
    folder, images = folder
    directory = directory_of(folder, kind)
    assert find_cached(directory, read_recipe(directory), [str(path) for path in images]) is None


def test_images_that_can_never_have_features_are_reported(folder):
    folder, images = folder
    directory = directory_of(folder, "linear")
    store = find_cached(directory, read_recipe(directory), [str(images[0])]).store
    (folder / "bad.png").write_bytes(b"no image")
    key = DigestCache(None).keys([str(folder / "bad.png")])[0][str(folder / "bad.png")]
    store.mark_unreadable({key: "it is no image"})
    _, unreadable = predict_images(directory, [images[0], folder / "bad.png"], "cpu")
    assert unreadable == [(str(folder / "bad.png"), "it is no image")]


def test_columns_stand_beside_cached_features(folder, tmp_path):
    folder, images = folder
    table = tmp_path / "table.csv"
    table.write_text("path,area,kind\n" + "".join(f"{path},{n},a\n" for n, path in enumerate(images)))
    directory = directory_of(folder, "columns")
    computed, _ = predict_images(directory, [table], "cpu", use_cache=False)
    mixed, _ = predict_images(directory, [table], "cpu")
    assert [one.extra for one in mixed] == [one.extra for one in computed]
    assert all(np.allclose(a.activated, b.activated, atol=1e-3) for a, b in zip(mixed, computed, strict=True))


def test_the_command_names_the_next_classes_and_abstains(folder, tmp_path, capsys, monkeypatch):
    folder, images = folder
    run = str(folder / "linear")
    (tmp_path / "list.txt").write_text("\n".join(map(str, images[:3])) + "\n\n")
    options = ["--method", "head-linear", "--top-k", "2", "--abstain-below", "1", "--out", str(tmp_path / "p.csv")]
    assert main(["predict", run, str(tmp_path / "list.txt"), *options]) == 0
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert rows[0].endswith("top_1,top_1_probability,top_2,top_2_probability")
    assert [row.split(",")[1] for row in rows[1:]] == ["", "", ""]
    monkeypatch.setattr("sys.stdin", StringIO(f"{images[1]}\n"))
    assert main(["predict", run, "-", "--method", "head-linear"]) == 0
    assert str(images[1]) in capsys.readouterr().out
    assert main(["predict", run, str(images[0]), "--method", "head-linear", "--top-k", "9"]) == 2
    assert "--top-k 9 has to be from 1 to 3" in capsys.readouterr().err

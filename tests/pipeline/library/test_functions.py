"""Features of anything that is an image; the commands' own extraction is what they are held against."""

import io
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from pipeline.cli.app import main
from pipeline.evaluation.results import Result
from pipeline.library import functions, images
from pipeline.library.estimators import FeatureExtractor
from pipeline.library.finetuning import finetune
from pipeline.library.functions import compare, features
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor, build_extractor
from stages.extraction.read_features import read_features

SIZE = 64


class Pictures(Dataset):
    """What a torch Dataset yields: an image, or an image with its label."""

    def __init__(self, pixels, labels=None):
        self.pixels, self.labels = pixels, labels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index] if self.labels is None else (self.pixels[index], self.labels[index])


@pytest.fixture(scope="module")
def arrays():
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 256, (height, 70, 3), dtype=np.uint8) for height in (40, 60, 80, 81)]


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    """The same pixels as PNG."""
    folder = tmp_path_factory.mktemp("png")
    for number, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(len(arrays))]


class BytesPath(os.PathLike):
    """A path as the system has it."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


@pytest.fixture(scope="module")
def expected(files):
    return features(files, image_size=SIZE)


@pytest.fixture
def forwards(monkeypatch):
    """The number of images in each batch that rows are made of; a GPU calls the trunk a few times more, to record it."""
    seen = []
    forward = Extractor.forward_rows
    monkeypatch.setattr(Extractor, "forward_rows", lambda self, x: seen.append(len(x)) or forward(self, x))
    return seen


def test_features_of_files_are_those_of_the_command_bit_for_bit(photographs, tmp_path):
    options = FeatureConfig(image_size=SIZE, cache=tmp_path / "cache", storage_dtype="float32")
    extractor = build_extractor(options)
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(extractor, manifest)
    command_features = read_features(extractor, manifest)
    assert np.array_equal(features(manifest.locations, image_size=SIZE), command_features)
    assert np.array_equal(features(manifest.locations, image_size=SIZE, cache=tmp_path / "own"), command_features)


class FrameOfPolars:
    """As much of a data frame of polars as is read: its columns have no ``ndim``."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self._values = columns

    def __len__(self):
        return len(self._values[self.columns[0]])

    def __getitem__(self, name):
        return SimpleNamespace(to_numpy=lambda: np.array(self._values[name], dtype=object))


@pytest.mark.parametrize(
    "form",
    [
        lambda arrays, files: list(map(str, files)),
        lambda arrays, files: arrays,
        lambda arrays, files: tuple(arrays),
        lambda arrays, files: [Image.fromarray(pixels) for pixels in arrays],
        lambda arrays, files: [Image.open(file) for file in files],
        lambda arrays, files: [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in arrays],
        lambda arrays, files: Pictures(arrays),
        lambda arrays, files: Pictures([Image.fromarray(pixels) for pixels in arrays], "abcd"),
        lambda arrays, files: [(file,) for file in files],
        lambda arrays, files: pd.DataFrame({"path": files, "label": list("aabb")}),
        lambda arrays, files: pd.DataFrame({"image": arrays}, index=[7, 3, 3, 1]),
        lambda arrays, files: FrameOfPolars(path=list(map(str, files))),
        lambda arrays, files: pd.Series(map(str, files), index=list("dcba")),
        lambda arrays, files: np.array(list(map(str, files))),
        lambda arrays, files: [arrays[0], files[1], str(files[2]), Image.fromarray(arrays[3])],
        lambda arrays, files: list(map(BytesPath, files)),
        lambda arrays, files: [np.ma.array(pixels, mask=pixels > 9) for pixels in arrays],
    ],
    ids=(
        *("str", "arrays", "tuple", "pillow", "opened", "tensors", "dataset", "labelled", "tuples"),
        *("frame-path", "frame-image", "frame-polars", "series", "numpy", "mixed", "bytes-path", "masked-array"),
    ),
)
def test_every_form_of_the_same_images_has_the_same_features(form, arrays, files, expected):
    assert np.array_equal(features(form(arrays, files), image_size=SIZE), expected)


def test_one_array_of_images_is_as_many_images():
    batch = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    together = features(batch, image_size=SIZE)
    assert together.shape == (3, 1280)
    assert np.array_equal(together, features(list(batch), image_size=SIZE))
    assert np.array_equal(together, features(torch.from_numpy(batch).permute(0, 3, 1, 2), image_size=SIZE))


def test_taps_of_all_depths_come_in_one_row_beside_what_the_cut_gives(arrays, expected):
    of_taps = features(arrays, taps=("blocks.*", "global_pool"), pool=("avg", "max"), image_size=SIZE)
    widths = [16, 24, 40, 80, 112, 192, 320]
    assert of_taps.shape == (4, 2 * sum(widths) + 1280)
    assert np.array_equal(of_taps[:, -1280:], expected)
    extractor = FeatureExtractor(taps="blocks.*", pool="avg", image_size=SIZE)
    names = extractor.get_feature_names_out()
    assert (names[0], names[-1], len(names)) == ("blocks.0.0.bn2:avg_0", "blocks.6.0.bn3:avg_319", sum(widths))
    assert np.array_equal(extractor.transform(arrays)[:, :16], of_taps[:, :16])


def test_images_of_unlike_sizes_come_in_a_list_or_an_array_of_objects(arrays, expected):
    together = np.empty(len(arrays), dtype=object)
    together[:] = arrays
    assert np.array_equal(features(together, image_size=SIZE), expected)


def test_grey_pixels_are_those_of_a_grey_png(tmp_path):
    grey = np.random.default_rng(2).integers(0, 256, (30, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    file_features = features([tmp_path / "grey.png"], image_size=SIZE)
    for pixels in (grey, grey[..., None], torch.from_numpy(grey)[None], np.stack([grey] * 3, axis=2)):
        assert np.array_equal(features([pixels], image_size=SIZE), file_features)


def test_pixels_in_any_memory_are_read_as_they_look(arrays, expected):
    locked = arrays[0].copy()
    locked.flags.writeable = False
    mirrored = arrays[0][:, ::-1].copy()[:, ::-1]
    columns = np.asfortranarray(arrays[0])
    assert np.array_equal(features([locked, mirrored, columns], image_size=SIZE), expected[[0, 0, 0]])


def test_images_turned_by_exif_stay_as_they_were_given(tmp_path):
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    photo.save(tmp_path / "turned.png", exif=exif)
    opened = Image.open(tmp_path / "turned.png")
    file_features = features([tmp_path / "turned.png"], image_size=SIZE)
    assert np.array_equal(features([opened, opened], image_size=SIZE), file_features[[0, 0]])
    assert opened.size == (50, 30)


def test_rows_come_in_the_order_given_and_an_image_that_comes_twice_is_computed_once(arrays, forwards):
    order = [3, 0, 3, 1, 0, 0]
    in_order = features(arrays, image_size=SIZE, precision="fp32")
    forwards.clear()
    rows = features([arrays[index] for index in order], image_size=SIZE, batch_size=1, precision="fp32")
    assert np.allclose(rows, in_order[order], atol=3e-4)
    assert np.array_equal(rows[0], rows[2])
    assert len(forwards) == 3


def test_a_dataset_is_taken_piece_by_piece_and_copies_are_still_computed_once(arrays, expected, forwards, monkeypatch):
    monkeypatch.setattr(images, "_CHUNK_BYTES", 1)
    rows = features(Pictures([arrays[0], arrays[1], arrays[0]]), image_size=SIZE)
    assert np.array_equal(rows, expected[[0, 1, 0]])
    assert len(forwards) == 2


def test_with_a_cache_nothing_is_computed_twice_whatever_it_is_called(arrays, files, expected, forwards, tmp_path):
    cache = tmp_path / "cache"
    first = features(files, image_size=SIZE, cache=cache)
    assert np.array_equal(first, expected)
    paid = len(forwards)
    for number, file in enumerate(files):
        (tmp_path / f"renamed-{number}.png").write_bytes(file.read_bytes())
    renamed = [tmp_path / f"renamed-{number}.png" for number in (2, 0)]
    assert np.array_equal(features(renamed, image_size=SIZE, cache=cache), expected[[2, 0]])
    assert len(forwards) == paid
    features(arrays[:2], image_size=SIZE, cache=cache)  # of pixels, told by their pixels
    assert len(forwards) == paid + 1
    pixel_images = [Image.fromarray(arrays[1]), arrays[0], torch.from_numpy(arrays[0]).permute(2, 0, 1)]
    assert np.array_equal(features(pixel_images, image_size=SIZE, cache=str(cache)), expected[[1, 0, 0]])
    assert len(forwards) == paid + 1


def test_the_cache_may_be_given_itself_if_it_is_of_these_features(files, expected, tmp_path):
    features(files, image_size=SIZE, cache=tmp_path / "cache")
    (tap,) = functions.extractor_for(
        FeatureConfig(image_size=SIZE, cache=tmp_path / "cache", storage_dtype="float32")
    ).taps
    assert np.array_equal(features(files, image_size=SIZE, cache=tap.cache), expected)
    with pytest.raises(ValueError, match=r"cache is of other features.*cut 'global_pool.flatten', not 'blocks.3"):
        features(files, image_size=SIZE, cut="blocks.3", cache=tap.cache)


def test_without_a_cache_nothing_is_left_on_disk(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    features(arrays, image_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed_logged_at_warning_or_drawn(arrays, tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        features(arrays, image_size=SIZE, cache=tmp_path / "cache")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_cuts_pools_and_types_are_as_asked(arrays, tmp_path):
    assert features(arrays, image_size=SIZE, cut="blocks.2", pool="none", dtype="float16").shape == (4, 40, 8, 8)
    assert features(arrays, image_size=SIZE, cut="blocks.2", dtype="float16").dtype == np.float16
    joined = features(arrays, image_size=SIZE, cut=["blocks.2", "blocks.3"])
    assert joined.shape == (4, 40 + 80)
    assert np.array_equal(joined, features(arrays, image_size=SIZE, cut="blocks.2,blocks.3", cache=tmp_path / "c"))
    assert np.allclose(joined[:, :40], features(arrays, image_size=SIZE, cut="blocks.2"), atol=1e-4)


def test_no_images_have_no_features(tmp_path):
    assert features([], image_size=SIZE).shape == (0, 1280)
    assert features([], image_size=SIZE, cache=tmp_path / "cache").shape == (0, 1280)
    assert features(pd.DataFrame({"path": []}), image_size=SIZE).shape == (0, 1280)


@pytest.fixture
def unreadable(arrays, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    return [tmp_path / "empty.jpg", arrays[0], tmp_path / "text.jpg", tmp_path / "nowhere.jpg", arrays[0]]


@pytest.mark.parametrize("cache", [None, "cache"])
def test_an_image_that_cannot_be_read_is_named_or_becomes_nan(unreadable, expected, cache, tmp_path):
    kept = None if cache is None else tmp_path / cache
    with pytest.raises(ValueError, match=r"2 of the images cannot be read: .*empty.jpg: the file is empty; .*nowhere"):
        features(unreadable, image_size=SIZE, cache=kept)
    with pytest.raises(ValueError, match=r"1 of the images cannot be read: .*text.jpg: not an image of a known format"):
        features(unreadable[1:3], image_size=SIZE, cache=kept)
    rows = features(unreadable, image_size=SIZE, cache=kept, on_unreadable="nan")
    assert np.isnan(rows).all(axis=1).tolist() == [True, False, True, True, False]
    assert np.array_equal(rows[[1, 4]], expected[[0, 0]])
    assert np.isnan(features(unreadable[2:3], image_size=SIZE, cache=kept, on_unreadable="nan")).all()


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_is_grey_pixels(arrays):
    grey = arrays[0][..., 0]
    assert np.array_equal(features([np.matrix(grey)], image_size=SIZE), features([grey], image_size=SIZE))


class Unmeasured(Dataset):
    """A Dataset without a length."""

    def __getitem__(self, index):
        return np.zeros((8, 8, 3), np.uint8)


class Endless(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photo.jpg", "images has to be .*this is one str: put it into a list"),
        (Path("photo.jpg"), "this is one PosixPath"),
        (str(Path(__file__).parent), r"this is a folder: give the files in it, as sorted\(Path\('.*'\).rglob"),
        ([b"of a file"], r"images\[0\] is a bytes: open it with PIL.Image.open, bytes by io.BytesIO; images has"),
        ([io.BytesIO(b"of a file")], r"images\[0\] is a BytesIO: open it with PIL.Image.open"),
        (Image.new("RGB", (9, 9)), "this is one Image"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\) is one image"),
        (np.zeros((2, 8, 8, 3)), r"images\[0\] is of float64; pixels have to be uint8"),
        (torch.zeros(2, 3, 8, 8), r"images\[0\] is of torch.float32; pixels have to be uint8"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"images\[0\] has the shape \[8, 8, 4\].*\[h, w, 3\] or \[h, w\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"shape \[8, 8, 3\]; .*tensor \[3, h, w\]"),
        ([np.zeros((0, 8), np.uint8)], r"images\[0\] has the shape \[0, 8\]"),
        ([np.zeros((8, 8), np.uint8), 3.5], r"images\[1\] is a float"),
        ([None], r"images\[0\] is a NoneType"),
        (pd.DataFrame({"file": ["a.jpg"]}), "columns 'file'"),
        (Endless(), "a Endless has no length"),
        ((number for number in range(3)), "a generator has no length"),
        ({"a": 1}, "not a dict"),
        ({1, 2}, "not a set"),
        (5, "a int has no length"),
        (None, "a NoneType has no length"),
        (Unmeasured(), "images has to be a sequence of paths.*; a Unmeasured has no length"),
        ([[0, 1], [2, 3]], r"images\[0\] is a int; images has to be a sequence"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"images\[0\] has the shape \[3, 8, 8\].*an array \[h, w, 3\] or \[h, w\]"),
        (np.zeros((2, 8, 8, 3), bool), r"images\[0\] is of bool; pixels have to be uint8, from 0 to 255"),
        (np.array(5), "a ndarray has no length"),
        (pd.DataFrame([["a.jpg", "b.jpg"]], columns=["path"] * 2), "this data frame has several columns 'path'"),
        (np.arange(3, dtype=np.uint8), r"images\[0\] is a uint8"),
    ],
)
def test_what_is_no_sequence_of_images_is_refused_in_words(given, message):
    with pytest.raises(ValueError, match=message):
        features(given, image_size=SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet81"}, "resnet18"),
        ({"cut": "blocks.99"}, "blocks.99"),
        ({"cut": ("blocks.2", "")}, "cut"),
        ({"device": "gpu"}, "gpu"),
        ({"on_unreadable": "skip"}, "on_unreadable has to be 'raise' or 'nan', not 'skip'"),
        ({"batch_size": 0}, "`batch_size` 0 must be at least 1"),
        (
            {"dtype": "float64"},
            "^`dtype` 'float64' is not one that there is. Did you mean 'float.* There are float16, float32, uint8",
        ),
        ({"precision": "fp64"}, "`precision` 'fp64' is not one that there is.* There are fp32, tf32, bf16, fp16, auto"),
        (
            {"pool": "mean"},
            "`pool` mean: there is no such pooling. There are avg, max, std, avgmax, cls, clsavg, grid2, grid4, none",
        ),
        ({"weights": "nowhere.pth"}, "`weights`: there is no file nowhere.pth"),
    ],
)
def test_wrong_arguments_are_value_errors(options, message):
    with pytest.raises(ValueError, match=message):
        features([], **{"image_size": SIZE, **options})


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(photographs, tmp_path_factory):
    """Two runs of one head each, made by the commands."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["--data", str(photographs), "--image-size", "64", "--cache", str(folder / "cache")]
    assert main(["extract", *common]) == 0
    for head in ("ridge", "ncm"):
        assert main(["train", *common, "--head", head, "--out", str(folder / head)]) == 0
    return [folder / "ridge", folder / "ncm"]


def test_runs_and_their_results_are_compared_and_nothing_is_written_unless_asked(runs, tmp_path, capfd):
    before = sorted(path for run in runs for path in run.rglob("*"))
    comparison = compare(runs)
    assert [row.name for row in comparison.rows] == ["ncm", "ridge"]
    results = [
        Result.load(run / "seed-0" / name) for run, name in zip(runs, ("linear-ridge", "linear-ncm"), strict=True)
    ]
    assert compare(results).tests == comparison.tests
    assert compare([str(run) for run in runs]).verdict_text == comparison.verdict_text
    assert sorted(path for run in runs for path in run.rglob("*")) == before
    assert capfd.readouterr() == ("", "")
    compare(results, out=tmp_path / "page")
    assert {path.name for path in (tmp_path / "page").iterdir()} >= {
        *("results.json", "predictions.csv", "table.csv", "report.html", "report.md")
    }


def test_what_cannot_be_compared_is_told(runs, tmp_path):
    result = Result.load(runs[0] / "seed-0" / "linear-ridge")
    for given, message in [
        ("runs/photos", "this is one path"),
        ([], "or nothing"),
        (None, "runs has to be a sequence"),
        ((run for run in runs), "runs has to be a sequence"),
        ([runs[0], result], "either run directories alone or results alone"),
        ([5], "either run directories alone"),
        ([replace(result, directory=None)], "a result that is in no run"),
        ([tmp_path / "nowhere"], "nowhere is not a run"),
    ]:
        with pytest.raises(ValueError, match=message):
            compare(given)


def test_files_of_more_bits_channels_and_pages_are_read_as_asked(tmp_path, caplog):
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 4096, (2, 40, 40)).astype(np.uint16)
    deep, pages, colors, eight = (str(tmp_path / f"{name}.tif") for name in ("deep", "pages", "colors", "eight"))
    tifffile.imwrite(deep, values[0])
    tifffile.imwrite(pages, values[::-1], photometric="minisblack")
    tifffile.imwrite(colors, np.stack([values[1], values[0]], axis=2), photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(eight, np.round(values[0] * (255 / 4095)).astype(np.uint8))
    expected = features([eight], image_size=32)
    for cache in (None, tmp_path / "cache"):
        given = {"image_size": 32, "intensity_range": "bits:12", "cache": cache}
        np.testing.assert_array_equal(features([deep], **given), expected)
        np.testing.assert_array_equal(features([deep], **{**given, "intensity_range": (0, 4095)}), expected)
        np.testing.assert_array_equal(features([pages], page=1, **given), expected)
        np.testing.assert_array_equal(features([colors], channels=[1], **given), expected)
        caplog.clear()
        with caplog.at_level("INFO", "cutonce"):
            assert not np.array_equal(features([pages], image_size=32, cache=cache), expected)
        assert "1 file of several pages or frames: the first was taken" in caplog.text
    extractor = FeatureExtractor(image_size=32, intensity_range="bits:12", channels="1", page="first")
    np.testing.assert_array_equal(extractor.transform([colors]), expected)


def test_what_only_a_data_set_tells_is_refused_and_pixels_in_memory_have_their_channels(arrays):
    with pytest.raises(ValueError, match=r"`intensity_range` auto is looked for in the images of a data set"):
        features(arrays[:1], intensity_range="auto")
    with pytest.raises(ValueError, match=r"`channels` all are looked for in the images of a data set"):
        finetune(arrays[:4], [0, 1, 0, 1], channels="all")
    with pytest.raises(ValueError, match=r"images\[0\]: `channels` are those of files"):
        features(arrays[:1], channels="2,1,0", image_size=32)

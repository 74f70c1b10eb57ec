"""``inspect`` and ``learning-curve`` as a person gives them, through the real network."""

import csv
import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.cli.app import main
from stages.data.manifest import Manifest
from stages.data.sources.digits import digits_image
from tests.pipeline.report.pages import Page

CLASSES = {"nought": 0, "one": 1, "<i>two": 2}


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def reencoded(source, target, quality):
    """Save the image again, in the format that the name says."""
    with Image.open(source) as image:
        image.save(target, quality=quality)


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    """Handwritten digits, enlarged, in three given splits with a fault of each kind."""
    root = tmp_path_factory.mktemp("flawed") / "digits"
    _, labels = load_digits(return_X_y=True)

    def image(index):
        pixels = digits_image(f"digits:{index}").permute(1, 2, 0).numpy()
        return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)

    sizes = {"train": 30, "val": 8, "test": 8}
    for folder, digit in CLASSES.items():
        indices = iter(np.flatnonzero(labels == digit))
        for split, per_class in sizes.items():
            (root / split / folder).mkdir(parents=True)
            for number in range(per_class):
                image(next(indices)).save(root / split / folder / f"{number:03}.jpg", quality=92)
    train, val, test = (root / split for split in sizes)
    reencoded(test / "nought" / "002.jpg", train / "nought" / "copy.webp", quality=90)
    (val / "one" / "same.jpg").write_bytes((train / "one" / "004.jpg").read_bytes())
    reencoded(train / "<i>two" / "003.jpg", train / "<i>two" / "again.jpg", quality=75)
    for number in range(3):
        image(np.flatnonzero(labels == 2)[50 + number]).save(train / "one" / f"wrong-{number}.jpg", quality=92)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(train / "nought" / "noise.png")
    image(np.flatnonzero(labels == 0)[100]).point(lambda level: level // 5).save(train / "nought" / "029.jpg")
    return root


@pytest.fixture(scope="module")
def inspected(flawed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    arguments = [
        "inspect",
        "--data",
        flawed,
        "--image-size",
        "96",
        # what is doubted of so few images hangs on how their features are rounded
        *("--precision", "fp32", "--decode-on", "cpu"),
        "--cache",
        folder / "cache",
        "--out",
        folder / "run",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    with (folder / "run" / "issues.csv").open(newline="", encoding="utf-8") as file:
        return folder, list(csv.DictReader(file)), arguments


def of_kind(issues, kind):
    return [issue for issue in issues if issue["kind"] == kind]


def test_a_copy_in_another_split_is_leakage_under_any_encoding_and_nothing_else_is(inspected, flawed):
    _, issues, _ = inspected
    leaks = {(issue["path"], issue["other_path"]) for issue in of_kind(issues, "leakage")}
    assert leaks == {
        (str(flawed / "train/nought/copy.webp"), str(flawed / "test/nought/002.jpg")),
        (str(flawed / "train/one/004.jpg"), str(flawed / "val/one/same.jpg")),
    }
    for issue in of_kind(issues, "leakage"):
        assert issue["split"] != issue["other_split"]
        assert (float(issue["score"]) == 1) == issue["path"].endswith("004.jpg")


def test_a_copy_in_its_own_split_is_a_duplicate(inspected, flawed):
    _, issues, _ = inspected
    [issue] = of_kind(issues, "duplicate")
    assert {issue["path"], issue["other_path"]} == {
        str(flawed / "train/<i>two" / name) for name in ("003.jpg", "again.jpg")
    }


def test_doubted_labels_are_those_that_are_wrong_with_the_right_ones_suggested(inspected):
    """So few images make confident learning cautious: how many are found of many is held beside the method."""
    _, issues, _ = inspected
    doubted = {issue["path"].rsplit("/", 1)[1]: issue for issue in of_kind(issues, "label")}
    assert set(doubted) <= {"wrong-0.jpg", "wrong-1.jpg", "wrong-2.jpg", "noise.png"}
    wrong = [issue for name, issue in doubted.items() if name.startswith("wrong")]
    assert wrong
    for issue in wrong:
        assert (issue["label"], issue["suggestion"], issue["split"]) == ("one", "<i>two", "train")
        assert float(issue["score"]) < 0.3


def test_noise_is_the_first_outlier(inspected, flawed):
    _, issues, _ = inspected
    assert of_kind(issues, "outlier")[0]["path"] == str(flawed / "train/nought/noise.png")


def test_a_dark_image_is_found_by_its_pixels(inspected, flawed):
    _, issues, _ = inspected
    dark = [(issue["path"], issue["suggestion"]) for issue in of_kind(issues, "pixels")]
    assert (str(flawed / "train/nought/029.jpg"), "dark") in dark
    assert len(dark) < 10


def test_of_numbers_the_one_that_is_far_off_is_doubted_and_copies_and_outliers_are_found(
    inspected, flawed, tmp_path, monkeypatch
):
    find_spec = importlib.util.find_spec  # without cleanlab, which nothing of numbers needs
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "cleanlab" else find_spec(name, *more)
    )
    root, issues, _ = inspected
    rows = [
        f"{path},{5000.5 if path.name == '007.jpg' and path.parent.name == 'one' else number + 0.5},{path.parent.parent.name}"
        for number, path in enumerate(sorted(path for path in flawed.rglob("*") if path.is_file()))
    ]
    (tmp_path / "sizes.csv").write_text("\n".join(["path,size,split", *rows]))
    options = ["--data", tmp_path / "sizes.csv", "--target", "size", "--image-size", 96, "--cache", root / "cache"]
    assert main(["inspect", *map(str, options), "--out", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "issues.csv").open(newline="", encoding="utf-8") as file:
        of_numbers = list(csv.DictReader(file))
    for kind in ("leakage", "duplicate", "pixels"):
        assert [issue["path"] for issue in of_kind(of_numbers, kind)] == [
            issue["path"] for issue in of_kind(issues, kind)
        ]
    assert of_kind(of_numbers, "outlier")[0]["path"].endswith("noise.png")
    far = of_kind(of_numbers, "label")[0]
    assert (far["path"].split("/")[-1], far["label"]) == ("007.jpg", "5000.5")
    assert float(far["score"]) > 3.5
    assert float(far["suggestion"].replace(",", "")) < 1000
    assert all(issue["label"].endswith(".5") for issue in of_numbers)
    page_text = Page(tmp_path / "run" / "inspect.html").words
    assert "times as far off as is usual" in page_text
    assert "Balance of the" not in page_text


def test_the_page_shows_what_was_found_and_needs_nothing_else(inspected):
    root, issues, _ = inspected
    page = Page(root / "run" / "inspect.html")
    assert page.words.index("across splits: 2") < page.words.index("label errors:") < page.words.index("Outliers")
    assert "take them out before you believe a test" in page.words
    assert "one → <i>two" in page.words
    assert "33 9 8" in page.words
    assert not page.all("i")
    images = page.all("img")
    shown = [path for issue in issues for path in (issue["path"], issue["other_path"]) if path]
    assert sorted(image["alt"] for image in images) == sorted(shown)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    source = (root / "run" / "inspect.html").read_text(encoding="utf-8")
    assert "://" not in source
    assert not {"link", "iframe"} & {tag for tag, _ in page.elements}
    assert not any("src" in script for script in page.all("script"))


def test_a_second_inspection_runs_no_backbone_and_prints_the_worst(inspected, capsys):
    *_, arguments = inspected
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "nothing to do" in out
    assert "Near-duplicates across splits: 2" in out
    assert re.search(r"wrong-\d\.jpg \(one, train\): rather <i>two", out)
    assert "issues.csv" in out


def test_a_threshold_of_one_leaves_the_same_bytes_alone(inspected, capsys, tmp_path):
    *_, arguments = inspected
    assert call(capsys, *arguments[:-1], tmp_path, "--threshold", "1")[0] == 0
    with (tmp_path / "issues.csv").open(newline="", encoding="utf-8") as file:
        issues = list(csv.DictReader(file))
    assert [issue["path"][-8:] for issue in of_kind(issues, "leakage")] == ["/004.jpg"]
    assert of_kind(issues, "duplicate") == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--threshold", "0"], "--threshold 0.0 must lie between 0.5 and 1"),
        (["--pool", "none", "--cut", "blocks.3"], "--pool avg"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_reason(inspected, capsys, flags, said):
    *_, arguments = inspected
    code, _, err = call(capsys, *arguments, *flags)
    assert code == 2
    assert said in err


@pytest.fixture(scope="module")
def curve(flawed, tmp_path_factory):
    """Of a layer low in the network, whose rows are short and not yet much good: the curve has somewhere to go."""
    folder = tmp_path_factory.mktemp("curve")
    arguments = ["learning-curve", "--data", flawed, "--allow-leakage", "--image-size", "64", "--cut", "blocks.1"]
    arguments += ["--cache", folder / "cache", "--draws", "2", "--out", folder / "run"]
    return folder, [str(argument) for argument in arguments]


def test_a_learning_curve_answers_in_a_sentence_a_table_and_a_plot(curve, capsys):
    root, arguments = curve
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert re.search(r"(?m)^(More labels would|Whether more labels would help)", out)
    assert re.search(r"(?m)^ +96 +\d+\.\d %", out)
    with (root / "run" / "learning-curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["kind"] == "measured"]
    assert [int(row["images"]) for row in rows if row["kind"] == "extrapolated"] == [192, 384, 960]
    assert {row["draw"] for row in measured} == {"0", "1"}
    assert (measured[0]["images"], measured[-1]["images"]) == ("6", "96")
    assert all(0 <= float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1 for row in rows[-3:])
    kept = json.loads((root / "run" / "learning-curve.json").read_text())
    assert (kept["images"][-1], list(kept["expected"])) == (96, ["192", "384", "960"])
    assert kept["answer"].split(".")[0] in out
    assert kept["provenance"]["command"].startswith("cutonce learning-curve")
    assert len(kept["provenance"]["data_digest"]) >= 16
    with Image.open(root / "run" / "learning-curve.png") as image:
        image.verify()
    assert (root / "run" / "learning-curve.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert kept["answer"].split(".")[0] in (root / "run" / "learning-curve.html").read_text(encoding="utf-8")


def test_the_test_split_is_never_read_for_a_learning_curve(curve, flawed, capsys):
    """Its images are not even extracted, and may be gone."""
    from cache import find_caches, open_cache

    root, arguments = curve
    assert call(capsys, *arguments)[0] == 0
    manifest = Manifest.load(root / "run" / "seed-0" / "manifest.csv")
    [cache_path] = find_caches(root / "cache")
    extracted = set(open_cache(cache_path).keys(0))
    test = {manifest.keys[index] for index in manifest.indices("test")}
    assert len(test) == 24
    assert not extracted & test
    assert extracted >= {manifest.keys[index] for index in manifest.indices("train")}


def test_one_draw_or_an_unknown_head_is_refused(curve, capsys):
    _, arguments = curve
    assert (
        "--draws 1 must be at least 2"
        in call(capsys, *[("1" if argument == "2" else argument) for argument in arguments])[2]
    )
    assert "ridge" in call(capsys, *arguments, "--head", "rigde")[2]


def test_of_one_image_that_can_be_read_it_is_said_that_there_is_nothing_to_compare(capsys, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    for number in range(1, 4):
        (tmp_path / f"{number}.png").write_bytes(b"none" * number)
    splits = ["train", "train", "val", "test"]
    rows = [f"{number}.png,{number}.5,{split}" for number, split in enumerate(splits)]
    (tmp_path / "sizes.csv").write_text("\n".join(["path,size,split", *rows]))
    options = ["--data", tmp_path / "sizes.csv", "--target", "size", "--image-size", 64, "--cache", tmp_path / "cache"]
    code, _, error = call(capsys, "inspect", *options, "--out", tmp_path / "run")
    assert code == 1
    assert "images are compared with each other, and there are 1 that could be read" in error

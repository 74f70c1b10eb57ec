"""The command `probe-layers` on real data: one pass, the validation split alone, and what it leaves."""

import csv
import json
import math
import shlex
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cache import FeatureCache
from pipeline.cli.app import main
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.network.graph.trunk import FrozenTrunk
from tests.pipeline.cli.test_commands import call

IMAGES = 400


def arguments_for(place, *more):
    return [
        str(argument)
        for argument in ("probe-layers", "--data", place / "own", "--image-size", 32, "--cache", place / "cache", *more)
    ]


def save_digits(folder, count):
    """Files of the first so many of scikit-learn's digits, a folder for each class."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:count], digits.target[:count], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        image.resize((32, 32)).save(folder / str(label) / f"{number}.png")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A probe of EfficientNet-Lite0 on the digits over two seeds, and how many images went through the network."""
    folder = tmp_path_factory.mktemp("probed")
    save_digits(folder / "own", IMAGES)
    # of other features it is measured how far they move answers, by the backbone
    any_machine = ("--precision", "fp32", "--decode-on", "cpu")
    arguments = arguments_for(folder, "--seeds", 0, 1, *any_machine, "--out", folder / "run")
    forwards = []
    rows = Extractor.forward_rows

    def counted(self, images):
        forwards.append(len(images))
        return rows(self, images)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Extractor, "forward_rows", counted)
        assert main(arguments) == 0
    with (folder / "run" / "probe.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    content = json.loads((folder / "run" / "probe.json").read_text())
    return SimpleNamespace(place=folder, arguments=arguments, forwards=sum(forwards), lines=lines, found=content)


def no_forward(*_):
    raise AssertionError("the backbone ran")


def test_all_cuts_take_one_pass_over_the_images(probed):
    manifest = Manifest.load(probed.place / "run" / "seed-0" / "manifest.csv")
    assert probed.forwards == len(set(manifest.keys)) == IMAGES
    assert len(probed.lines) == 18
    assert len(list((probed.place / "cache").glob("*/spec.json"))) == 18
    assert probed.found["provenance"]["data_digest"] == manifest.digest


def test_a_second_probe_and_the_commands_it_names_run_no_backbone(probed, capsys, monkeypatch):
    monkeypatch.setattr(FrozenTrunk, "forward", no_forward)
    code, out, _ = call(capsys, *probed.arguments)
    assert (code, f"nothing to do: all {IMAGES} images are in the cache" in out) == (0, True)
    for command in probed.found["commands"]:
        assert f"  {command}  #" in out
    for command in probed.found["commands"]:
        assert main([*shlex.split(command)[1:], "--head", "ridge"]) == 0
    run = probed.place / "run"
    recommended = next(cut for cut in probed.found["cuts"] if cut["cut"] == probed.found["recommended"])
    for seed in (0, 1):
        result = json.loads((run / recommended["cut"] / f"seed-{seed}" / "linear-ridge" / "result.json").read_text())
        assert result["val"]["accuracy"] == pytest.approx(recommended["val_accuracies"][seed])
        assert result["cut"] == recommended["operation"]


def test_the_recommendation_obeys_the_rule_on_what_the_table_holds(probed):
    accuracy = {line["cut"]: float(line["val_accuracy"]) for line in probed.lines}
    best = max(accuracy, key=lambda cut: accuracy[cut])
    assert accuracy[probed.found["best"]] == accuracy[best] > 0.8
    images = sum(probed.found["validation_images"])
    error = math.sqrt(accuracy[best] * (1 - accuracy[best]) / images)
    assert probed.found["standard_error"] == pytest.approx(error)
    below = {
        line["cut"]: (float(line["below_best"]), float(line["below_best_standard_error"])) for line in probed.lines
    }
    assert below[probed.found["best"]] == (0, 0)
    allowed = [line for line in probed.lines if below[line["cut"]][0] <= min(below[line["cut"]][1], 0.02)]
    assert probed.found["recommended"] == min(allowed, key=lambda line: int(line["multiply_adds"]))["cut"]
    for line in probed.lines:
        assert float(line["below_best"]) == pytest.approx(accuracy[best] - accuracy[line["cut"]])
        assert float(line["below_best_low"]) <= float(line["below_best"]) <= float(line["below_best_high"])


def test_costs_and_accuracies_of_the_table_are_those_of_cut_and_cache(probed):
    images = probed.found["validation_images"]
    for line, cut in zip(probed.lines, probed.found["cuts"], strict=True):
        assert int(line["bytes_per_image"]) == 2 * int(line["row_width"])  # float16
        assert 0 <= float(line["multiply_adds_saved"]) < 1
        right = [round(share * count) for share, count in zip(cut["val_accuracies"], images, strict=True)]
        assert float(line["val_accuracy"]) == pytest.approx(sum(right) / sum(images))
        assert float(line["val_accuracy_lowest"]) == min(cut["val_accuracies"])
    depths = [int(line["depth"]) for line in probed.lines]
    assert depths == sorted(depths)
    assert (probed.lines[-1]["cut"], probed.lines[-1]["row_width"]) == ("auto", "1280")


def test_the_page_stands_alone_and_holds_every_number_and_command(probed):
    page = (probed.place / "run" / "probe.html").read_text(encoding="utf-8")
    for cut in probed.found["cuts"]:
        assert f"{cut['cut']}<" in page
        assert f"{100 * cut['val_accuracy']:.1f} %" in page
    for command in probed.found["commands"]:
        assert command in page
    assert "var(--accent)" in page
    assert "src=" not in page
    assert "<link" not in page


def test_the_plot_is_left_as_png_and_svg(probed):
    with Image.open(probed.place / "run" / "probe.png") as image:
        assert min(image.size) > 600
    drawn = ElementTree.parse(probed.place / "run" / "probe.svg")
    text = " ".join(drawn.getroot().itertext())
    assert "validation accuracy" in text
    assert all(line["cut"] in text for line in probed.lines)


@pytest.fixture(scope="module")
def small(photographs, tmp_path_factory):
    """The 72 photographs in a cache of three cuts."""
    folder = tmp_path_factory.mktemp("small")
    common = ["--data", photographs, "--image-size", "64", "--cache", folder / "cache"]
    assert main([str(argument) for argument in ("probe-layers", *common, "--cut", "blocks.4,blocks.2,auto")]) == 0
    return common


def test_the_test_split_is_not_read(small, capsys, monkeypatch, tmp_path):
    read = []
    from_cache = FeatureCache.read

    def noted(self, keys, view=0):
        read.extend(keys)
        return from_cache(self, keys, view)

    monkeypatch.setattr(FeatureCache, "read", noted)
    code, _, _ = call(capsys, "probe-layers", *small, "--cut", "blocks.4,blocks.2,auto", "--out", tmp_path / "run")
    assert code == 0
    manifest = Manifest.load(tmp_path / "run" / "seed-0" / "manifest.csv")
    keys_by_split = {split: {manifest.keys[at] for at in manifest.indices(split)} for split in ("train", "val", "test")}
    assert set(read) == keys_by_split["train"] | keys_by_split["val"]
    assert keys_by_split["test"].isdisjoint(read)


def test_layers_that_are_named_are_probed_and_no_others(small, capsys):
    code, out, _ = call(capsys, "probe-layers", *small, "--cut", "blocks.4,auto,blocks.2")
    assert code == 0
    rows = [line.split()[0] for line in out.splitlines() if "±" in line]
    assert rows == ["blocks.2", "blocks.4", "auto"]  # from the image upwards


def test_one_cut_is_no_choice_but_has_its_accuracy(small, capsys):
    code, out, _ = call(capsys, "probe-layers", *small, "--cut", "blocks.4")
    assert code == 0
    assert "One cut was probed, blocks.4: validation accuracy" in out
    assert "(best)" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pool", "none"], "choose a --pool"),
        (["--cut", "block.4"], "blocks.4"),
        (["--pool", "cls"], "class token"),
        (["--cut", "blocks.4,,blocks.2"], "no layer between two commas"),
        (["--backbone", "resnet81"], "resnet18"),
        (["--val-size", "2"], "--val-size"),
        (["--metric", "log_loss"], "name another --metric"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_any_image_is_read(small, capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(FrozenTrunk, "forward", no_forward)
    code, out, err = call(capsys, "probe-layers", *small, *arguments)
    assert code in (1, 2)
    assert said in " ".join(err.split())
    assert "Traceback" not in out + err

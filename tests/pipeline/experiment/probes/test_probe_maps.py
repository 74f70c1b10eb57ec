"""``probe-layers`` where each pixel has a class: maps one by one, and sets of them."""

import json
import shlex

import numpy as np
import pytest

from pipeline.cli.app import main
from stages.data.manifest import Manifest
from stages.network.graph.trunk import FrozenTrunk


@pytest.fixture(scope="module")
def probed(dense_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed")
    arguments = ["probe-layers", "--data", dense_folder, "--image-size", "48x64", "--cache", out / "cache"]
    assert main([*map(str, arguments), "--out", str(out / "run")]) == 0
    return out, json.loads((out / "run" / "probe.json").read_text())


def test_the_maps_of_blocks_are_probed_one_by_one_and_in_sets(probed):
    _, found = probed
    names = [cut["cut"] for cut in found["cuts"]]
    single = [name for name in names if "," not in name]
    assert single == ["blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks"]
    assert "blocks.2,blocks.4,blocks" in names  # what is taken where no cut is named
    assert len(names) == len(set(names))
    assert found["metric"] == "miou"
    by_name = {cut["cut"]: cut for cut in found["cuts"]}
    joined = by_name["blocks.2,blocks.4,blocks"]
    parts = [by_name[name] for name in ("blocks.2", "blocks.4", "blocks")]
    assert joined["bytes_per_image"] == sum(part["bytes_per_image"] for part in parts)
    assert joined["multiply_adds"] == parts[-1]["multiply_adds"]
    assert joined["depth"] == parts[-1]["depth"]


def test_a_set_that_grew_is_better_than_the_map_it_began_with_and_scores_are_of_validation(probed):
    out, found = probed
    scores = {cut["cut"]: cut["val_miou"] for cut in found["cuts"]}
    best = max((name for name in scores if "," not in name), key=scores.__getitem__)
    grown = [name for name in scores if best in name.split(",") and len(name.split(",")) == 2]
    assert not grown or max(scores[name] for name in grown) > scores[best]
    assert scores[found["best"]] == max(scores.values()) > 0.5
    manifest = Manifest.load(out / "run" / "seed-0" / "manifest.csv")
    assert found["validation_images"] == [len(manifest.indices("val"))]


def test_the_command_that_is_recommended_trains_on_the_cached_maps(probed, monkeypatch):
    out, found = probed

    def no_forward(*_):
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(FrozenTrunk, "forward", no_forward)
    command = shlex.split(found["commands"][0])[1:]
    assert main([*command, "--head", "linear", "--fit-epochs", "1"]) == 0
    (result,) = (out / "run").glob("*/seed-0/head-linear/result.json")
    trained = json.loads(result.read_text())
    recommended = next(cut for cut in found["cuts"] if cut["cut"] == found["recommended"])
    assert trained["cut"] == recommended["operation"]
    assert np.isfinite(trained["val"]["miou"])


def test_the_page_says_how_maps_were_compared(probed):
    out, _ = probed
    page = (out / "run" / "probe.html").read_text()
    assert "masks of one size" in page
    assert "ridge" not in page

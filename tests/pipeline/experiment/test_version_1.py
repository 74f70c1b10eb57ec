"""What version 0.1 left on disk: a cache, a run and its models. All of it opens, and nothing is computed again."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import open_cache
from pipeline.cli.app import main
from pipeline.options.toml_file import read_configuration
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features

FIXTURE = Path(__file__).parent / "fixtures" / "version_1"
FINGERPRINT = "c4f1c4b4a7c248db49f3288ff4585c74"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_the_same_command_finds_everything_done(old, capsys):
    assert main(["run", "--config", "run/config.toml", "--out", "run", "--decode-on", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "nothing to do: all 24 images are in the cache" in output
    assert "features of 24 images were taken over from version 1 of the decoder" in output
    for method in ("linear-logistic", "linear-ridge", "frozen-head"):
        assert f"{method}: already trained" in output
    assert "epoch   1" not in output


def test_the_configuration_is_read_by_its_names_of_today(old):
    values = read_configuration(old / "run" / "config.toml")
    assert values["cv"] == 3
    assert values["augment"] == "crop(0.5)+flip+colorjitter(0.3)+grayscale"
    assert "folds" not in values


def test_its_runs_are_compared_and_its_models_classify(old, capsys):
    assert main(["compare", "run", "--out", "again"]) == 0
    assert "frozen network head" in capsys.readouterr().out
    for method in ("linear-ridge", "frozen-head"):
        assert main(["predict", "run", "photos", "--method", method, "--out", "predictions.csv"]) == 0
        with (old / "predictions.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == 24


def test_fingerprint_and_features_are_the_same(old, tmp_path):
    manifest = Manifest.load(old / "run" / "seed-0" / "manifest.csv")
    extractor = build_extractor(
        FeatureConfig(image_size=64, cache=tmp_path / "new", precision="fp32", decode_on="cpu")  # as all did then
    )
    assert extractor.fingerprint_of_version_1 == FINGERPRINT
    extract(extractor, manifest)
    stored = open_cache(old / "cache" / FINGERPRINT).read(manifest.keys)
    # other processors round the last bit of a float16 otherwise
    assert np.allclose(read_features(extractor, manifest), stored, rtol=2e-3, atol=2e-3)

"""Images of many channels and more than 8 bits through every stage, as a person with a microscope has them."""

import csv

import numpy as np
import pytest
import tifffile

from pipeline.cli.app import main
from pipeline.options.toml_file import read_configuration


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Five channels of 12 bits, with an edge in one of two channels; nothing can be seen of them as 16 bits."""
    root = tmp_path_factory.mktemp("microscope")
    for name, channel in (("membrane", 4), ("nucleus", 1)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(12):
            values = np.random.default_rng([channel, number]).integers(0, 900, (5, 48, 48)).astype(np.uint16)
            values[channel, :, 10 + number :] += 3000
            path = root / "images" / name / f"{number}.tif"
            tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    arguments = [
        "run",
        "--data",
        root / "images",
        "--channels",
        "all",
        "--intensity-range",
        "auto",
        "--image-size",
        "64",
    ]
    arguments += ["--head", "logistic", "--cv", "2", "--epochs", "1", "--unfreeze", "1", "--cache", root / "cache"]
    assert main([str(argument) for argument in [*arguments, "--out", root / "run"]]) == 0
    return root


def test_the_run_keeps_what_was_found_in_the_images(run):
    options = read_configuration(run / "run" / "config.toml")
    assert (options["channels"], options["intensity_range"]) == ("0,1,2,3,4", "bits:12")


@pytest.mark.parametrize("method", ["linear-logistic", "finetune-top-1"])
def test_new_images_are_read_as_those_that_were_trained_on(run, method):
    images = str(run / "images" / "nucleus")
    assert main(["predict", str(run / "run"), images, "--method", method, "--out", str(run / "new.csv")]) == 0
    with (run / "new.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_without_a_word_they_are_refused_by_their_number(run, capsys):
    assert main(["extract", "--data", str(run / "images"), "--cache", str(run / "cache")]) == 1
    assert "5 channels: --channels names those to take, as 2,1,0, or all" in capsys.readouterr().err

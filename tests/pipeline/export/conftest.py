"""Saved methods of every kind, with random numbers on a small network, and what one of them becomes when it leaves."""

import numpy as np
import pytest

from pipeline.export.export_run import export_run
from tests.pipeline.finished_runs import add, predictions
from tests.saved_methods import make_images, saved_method

CUTS = ("layer2,layer3", "layer4")


@pytest.fixture(scope="package")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(scope="package")
def saved(images, tmp_path_factory):
    """Return the folder of a method of a kind, each made once."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = saved_method(folder, "resnet18", kind, images, image_size=32, cuts=CUTS)
        return made[kind]

    return of


@pytest.fixture(scope="package")
def run(saved):
    """A finished run of one method, of the result of which it is known that it is right in 30 of 40."""
    directory = saved("linear")
    run = directory.parent.parent
    labels = np.arange(40) % 3
    add(run, predictions(labels, np.arange(40) < 10, classes=3), method="head", name="linear")
    (run / "results.json").write_text('{"results": [], "verdict": "Take it: nothing else was tried."}')
    return run


@pytest.fixture(scope="package")
def exported(run, tmp_path_factory):
    """The run as an ONNX file and as a program of torch."""
    folder = tmp_path_factory.mktemp("exported")
    onnx = export_run(run, folder / "own.onnx", method="head-linear")
    program = export_run(run, folder / "program", method="head-linear", format_name="torch-export")
    return onnx, program

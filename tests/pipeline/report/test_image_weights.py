"""Weights of the images of a sample, on the page."""

import csv
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.run_layout import IMAGE_WEIGHTS
from tests.pipeline.finished_runs import add, key, predictions
from tests.pipeline.report.pages import report


def weigh(directory, samples):
    """Write what a head that weighs images leaves: of each sample (place, image, weight)."""
    with (directory / IMAGE_WEIGHTS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "path", "place", "image", "weight"])
        for number, images in enumerate(samples):
            writer.writerows((key(number), images[0][1], *image) for image in images)


@pytest.fixture
def run(tmp_path):
    """A run with two heads, and the folder of the one that weighs images."""
    for name in "abc":
        Image.fromarray(np.full((8, 8, 3), 99, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    labels = np.arange(8) % 2
    add(tmp_path / "run", predictions(labels, labels > 5), val=0.9)
    fields = {"method": "head", "name": "mil", "options": {"images": ["front", "kitchen"]}}
    return tmp_path / "run", add(tmp_path / "run", predictions(labels, labels > 5), **fields)


def test_each_image_is_shown_with_its_weight_and_the_least_even_samples_first(run, tmp_path):
    folder, method = run
    even = [(0, f"{tmp_path}/a.png", 0.5), (1, f"{tmp_path}/b.png", 0.5)]
    uneven = [(0, f"{tmp_path}/a.png", 0.1), (1, f"{tmp_path}/c.png", 0.9)]
    alone = [(1, f"{tmp_path}/b.png", 1.0)]  # the other view is missing
    weigh(method, [even, uneven, alone, *[even] * 5])
    page = report(folder)
    words = " ".join(page.words.split())
    assert "How much each image counts" in words
    assert "On average front has 44.3 %, kitchen has 61.3 %." in words
    assert "Of 8 test" in words
    pictures = [image["alt"] for image in page.all("img") if "counts" in image.get("alt", "")]
    assert pictures[:2] == [f"{tmp_path}/a.png, which counts 10.0 %", f"{tmp_path}/c.png, which counts 90.0 %"]
    assert len(pictures) == 11  # six of the eight samples, of which one has one image


def test_of_many_images_those_that_count_most_are_shown_in_their_order(run, tmp_path):
    folder, method = run
    weights = [0.01, 0.3, 0.05, 0.2, 0.02, 0.15, 0.12, 0.1, 0.05]
    weigh(method, [[(place, f"{tmp_path}/gone{place}.png", weight) for place, weight in enumerate(weights)]])
    words = " ".join(report(folder).words.split())
    assert re.findall(r"gone([\d.]+) %", words) == ["30.0", "5.0", "20.0", "15.0", "12.0", "10.0"]
    assert "3 more that count less" in words


def test_a_page_without_such_a_head_says_nothing_of_weights(run):
    assert "How much each image counts" not in report(run[0]).words

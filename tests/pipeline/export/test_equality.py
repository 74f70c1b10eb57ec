"""A file that does not answer as its run is refused; what it is asked about are images of the run, of unlike sizes."""

import numpy as np
import pytest
from PIL import Image

from cache.errors import CutonceError, DataError
from pipeline.export.equality import (
    BOUND,
    Equality,
    _wrong_pixels,
    compare_with_run,
    own_answers,
    samples_of_run,
    stack_sample,
)
from pipeline.library.export_model import export_model, open_trained
from pipeline.run_layout import MANIFEST


@pytest.fixture(scope="module")
def model(saved):
    return open_trained(saved("linear"), "cpu")


def test_the_largest_difference_is_told_and_one_beyond_the_bound_refused(model):
    samples = samples_of_run(model)
    own = own_answers(model, samples)
    assert len({Image.open(sample.locations[0]).size for sample in samples}) == 6

    def off_by(difference):
        answers = iter(own)
        return lambda inputs: [next(answers)[None] + np.float32(difference)]

    assert compare_with_run(model, off_by(BOUND / 2), samples).difference == pytest.approx(BOUND / 2, rel=0.01)
    with pytest.raises(CutonceError, match=r"differ from the run's by 0\.00011, which is more than 0\.0001"):
        compare_with_run(model, off_by(1.1 * BOUND), samples)
    with pytest.raises(CutonceError, match="differ from the run's by nan"):
        compare_with_run(model, off_by(float("nan")), samples)


def test_what_is_refused_leaves_no_file(model, tmp_path):
    def refuse(opened, run_file):
        raise CutonceError("not equal")

    with pytest.raises(CutonceError, match="not equal"):
        export_model(model.directory, tmp_path / "model.safetensors", "cpu", check=refuse)
    assert not list(tmp_path.iterdir())


def test_images_that_are_gone_are_said_to_be(saved, tmp_path):
    directory = tmp_path / "seed-0" / "head-linear"
    directory.mkdir(parents=True)
    for file in saved("linear").iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    model = open_trained(directory, "cpu")
    with pytest.raises(DataError, match=r"manifest\.csv is missing"):
        samples_of_run(model)
    for name in (MANIFEST, "manifest.json"):
        text = (saved("linear").parent / name).read_text()
        (directory.parent / name).write_text(text.replace(".png", ".gone"))
    with pytest.raises(DataError, match=r"none of the images of .* can be read, and a file is checked with them"):
        samples_of_run(model)


def test_images_of_a_sample_lie_in_one_array_with_their_sizes():
    images = {0: np.ones((3, 2, 5), np.uint8), 2: np.full((3, 4, 3), 7, np.uint8)}
    stacked, sizes = stack_sample(images, 3)
    assert (stacked.shape, sizes.tolist()) == ((1, 3, 3, 4, 5), [[[2, 5], [0, 0], [4, 3]]])
    assert (stacked[0, 0].sum(), stacked[0, 2].sum()) == (30, 7 * 36)


def test_a_mask_of_other_classes_than_the_most_probable_is_found():
    probabilities = np.array([[[0.9, 0.2, 0.5]], [[0.1, 0.8, 0.5]]])
    assert _wrong_pixels(np.array([[0, 1, 1]]), probabilities) == 0  # of equals either
    assert _wrong_pixels(np.array([[0, 0, 0]]), probabilities) == 1


@pytest.mark.parametrize(
    ("samples", "sizes", "words"),
    [(1, 1, "1 sample of the run, of one size"), (6, 4, "6 samples of the run, of 4 sizes")],
)
def test_what_was_asked_about_is_said_in_words(samples, sizes, words):
    assert Equality(samples, sizes, 0.0).asked == words

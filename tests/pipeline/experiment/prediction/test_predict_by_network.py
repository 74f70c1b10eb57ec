"""New images through networks: what they answer, what cannot be read, and what is refused."""

import pytest

from cache.errors import DataError, UsageError
from pipeline.evaluation.decision import Decision
from pipeline.experiment.models.mixture_model import open_networks
from pipeline.experiment.prediction.find_samples import NewSample
from pipeline.experiment.prediction.predict_by_network import batches_of_images, predict_samples, predict_with_masks
from pipeline.experiment.prediction.prediction import SavedMethod
from tests.saved_methods import make_images, saved_method


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), 3)


def opened(folder, kind, images):
    directory = saved_method(folder, "resnet18", kind, images, 32, cuts=("layer2,layer3", "layer4"))
    return SavedMethod.read(directory), open_networks(directory, "cpu")


def test_images_are_answered_in_order_and_one_that_cannot_be_read_is_told(images, tmp_path):
    method, networks = opened(tmp_path, "linear", images)
    (tmp_path / "bad.png").write_bytes(b"none")
    listing = [(str(path), {}) for path in (images[0], tmp_path / "bad.png", images[2])]
    batches = list(batches_of_images(method, networks, listing))
    assert [index for batch in batches for index in batch.indices] == [0, 2]
    assert [index for batch in batches for index, _ in batch.failures] == [1]


def test_samples_of_several_images_are_answered_as_a_whole(images, tmp_path):
    method, networks = opened(tmp_path, "mean", images)
    samples = [NewSample("one", (str(images[0]), str(images[1]))), NewSample("two", (str(images[2]), None))]
    predicted, unreadable = predict_samples(method, networks, samples, None)
    assert ([one.location for one in predicted], unreadable) == (["one", "two"], [])
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(DataError, match="none of the 1 images could be read"):
        predict_samples(method, networks, [NewSample("bad", (str(tmp_path / "bad.png"), None))], None)


def test_masks_are_of_pixels_and_take_no_threshold_for_images(images, tmp_path):
    method, networks = opened(tmp_path, "masks", images)
    listing = [(str(path), {"row": str(number)}) for number, path in enumerate(images)]
    predicted, _ = predict_with_masks(method, networks, listing, None, None)
    assert [one.extra["row"] for one in predicted] == ["0", "1", "2"]
    assert all(abs(one.activated.sum() - 1) < 1e-3 for one in predicted)  # shares of the classes
    with pytest.raises(UsageError, match="for images as a whole, not for their pixels"):
        predict_with_masks(method, networks, listing, Decision(temperature=2.0), None)

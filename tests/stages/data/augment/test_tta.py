import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.data.augment import tta as rendered
from stages.data.image_stream import ImageRequest, stream_images
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rgb import UnreadableImageError
from stages.network.backbones.registry import load_backbone
from tests.stages.data.pictures import photograph, pixels, write_images

PREPROCESSING = Preprocessing(32, 40)
PHOTO = torch.from_numpy(pixels(photograph(90, 70)).copy())
SIZES = st.tuples(st.integers(1, 120), st.integers(1, 120))


@given(
    *(SIZES, st.integers(8, 40), st.integers(4, 60), st.sampled_from(["none", "flip", "crops"])),
    st.sampled_from(["center", "squash", "border"]),
)
def test_the_first_rendering_is_the_evaluation_view_bit_for_bit(size, side, resize, kind, mode):
    preprocessing = Preprocessing(side, resize, crop_mode=mode)
    image = torch.from_numpy(pixels(photograph(*size)).copy())
    views = rendered.TestTimeAugmentation(preprocessing, kind)(image)
    assert views.shape == (rendered.TestTimeAugmentation(preprocessing, kind).count, 3, side, side)
    assert views.dtype == torch.uint8
    assert torch.equal(views[0], preprocessing.render(image))


def test_how_many_there_are():
    assert [rendered.TestTimeAugmentation(PREPROCESSING, kind).count for kind in ("none", "flip", "crops")] == [
        1,
        2,
        10,
    ]


def test_a_flip_is_the_mirrored_evaluation_view():
    view, mirrored = rendered.TestTimeAugmentation(PREPROCESSING, "flip")(PHOTO)
    assert torch.equal(mirrored, view.flip(2))


@pytest.mark.parametrize("kind", ["none", "flip", "crops"])
def test_what_is_but_the_evaluation_view_says_so(kind):
    renderings = rendered.TestTimeAugmentation(PREPROCESSING, kind)
    view = PREPROCESSING.render(PHOTO)
    expected = [view.flip(2) if mirrored else view for mirrored in renderings.mirrored or ()]
    assert (len(expected) == renderings.count) == (kind != "crops")
    assert all(torch.equal(*pair) for pair in zip(renderings(PHOTO), expected, strict=kind != "crops"))


def test_crops_are_center_and_corners_of_the_resized_image_then_mirrored():
    views = rendered.TestTimeAugmentation(PREPROCESSING, "crops")(PHOTO)
    resized = PREPROCESSING.resized(PHOTO)
    height, width = resized.shape[1:]
    assert (height, width) == (40, 51)
    corners = [(0, 0), (0, width - 32), (height - 32, 0), (height - 32, width - 32)]
    for view, (top, left) in zip(views[1:5], corners, strict=True):
        assert torch.equal(view, resized[:, top : top + 32, left : left + 32])
    assert torch.equal(views[5:], views[:5].flip(3))
    assert len({view.contiguous().numpy().tobytes() for view in views}) == 10


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_where_all_of_an_image_is_seen_the_crops_are_it_and_the_corners_of_a_larger_whole(mode):
    preprocessing = Preprocessing(32, 40, crop_mode=mode)
    views = rendered.TestTimeAugmentation(preprocessing, "crops")(PHOTO)
    larger = Preprocessing(40, 40, crop_mode=mode).render(PHOTO)
    for view, (top, left) in zip(views[1:5], [(0, 0), (0, 8), (8, 0), (8, 8)], strict=True):
        assert torch.equal(view, larger[:, top : top + 32, left : left + 32])
    assert torch.equal(views[5:], views[:5].flip(3))


def test_an_image_too_thin_to_be_resized_is_unreadable_for_all_kinds():
    for kind in ("none", "flip", "crops"):
        with pytest.raises(UnreadableImageError, match="too long and thin"):
            rendered.TestTimeAugmentation(Preprocessing(224, 256), kind)(torch.zeros((3, 1, 5000), dtype=torch.uint8))


@given(st.integers(0, 7), st.sampled_from(["none", "flip", "crops"]))
def test_probabilities_are_averaged_over_the_renderings_of_each_image(images, kind):
    renderings = rendered.TestTimeAugmentation(PREPROCESSING, kind)
    drawn = np.random.default_rng(images).dirichlet([1, 1, 1], size=images * renderings.count).astype(np.float32)
    averaged = renderings.average(drawn)
    assert averaged.shape == (images, 3)
    assert averaged.dtype == np.float32
    for image, mean in enumerate(averaged):
        own = drawn[image * renderings.count : (image + 1) * renderings.count]
        assert np.allclose(mean, own.mean(axis=0), atol=1e-6)
    assert kind != "none" or np.array_equal(averaged, drawn)


def test_an_image_and_its_mirror_image_are_predicted_alike_by_a_real_network():
    """The effect of averaging over flips; of the ten crops too, as long as the margins are even."""
    network = load_backbone("efficientnet_lite0", image_size=64)
    image = torch.from_numpy(np.asarray(photograph(80, 80)).copy()).permute(2, 0, 1)

    def predicted(kind, image):
        renderings = rendered.TestTimeAugmentation(Preprocessing(64, 80), kind)
        with torch.inference_mode():
            logits = network.module(network.preprocessing.normalize(renderings(image)))
        return renderings.average(logits.softmax(dim=1).numpy())

    for kind in ("flip", "crops"):
        assert np.allclose(predicted(kind, image), predicted(kind, image.flip(2)), atol=1e-5)
    assert np.abs(predicted("none", image) - predicted("none", image.flip(2))).max() > 1e-3


def test_they_stream_as_any_rendering_does(tmp_path):
    renderings = rendered.TestTimeAugmentation(Preprocessing(8, 10), "crops")
    locations = [str(path) for path in write_images(tmp_path, {"a": 5})]
    requests = (ImageRequest(location, renderings) for location in locations)
    batches = list(stream_images(requests, 4, 2, renderings=renderings.count))
    assert [index for batch in batches for index in batch.indices] == [image for image in range(5) for _ in range(10)]

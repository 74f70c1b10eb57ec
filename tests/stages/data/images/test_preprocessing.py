import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional as F

from cache.errors import UsageError
from stages.data.images.decode import decode
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.rgb import UnreadableImageError
from tests.stages.data.pictures import encoded, photograph, pixels

SIZES = [(500, 375), (375, 500), (256, 256), (300, 300), (61, 47), (8, 8), (1000, 90), (224, 700)]
PIL_NAMES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


@pytest.mark.parametrize("interpolation", PIL_NAMES)
@pytest.mark.parametrize(("image_size", "resize"), [(224, 256), (299, 342), (96, 96), (300, 343)])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation_view_is_torchvisions_preset_to_within_rounding(size, image_size, resize, interpolation):
    photo = photograph(*size)
    preset = v1.Compose([v1.Resize(resize, PIL_NAMES[interpolation]), v1.CenterCrop(image_size)])
    expected = pixels(preset(photo)).astype(int)
    view = Preprocessing(image_size, resize, interpolation).render(torch.from_numpy(pixels(photo).copy()))
    assert view.dtype == torch.uint8
    assert view.shape == (3, image_size, image_size)
    difference = np.abs(view.numpy() - expected)
    assert difference.max() <= (2 if interpolation == "bicubic" else 1)  # bicubic rounds after each of its two passes
    assert difference.mean() < 0.05


@pytest.mark.parametrize("interpolation", PIL_NAMES)
@pytest.mark.parametrize(
    ("mode", "kind", "options"), [("RGB", "JPEG", {"quality": 90}), ("RGB", "PNG", {}), ("L", "PNG", {})]
)
def test_a_decoded_and_rendered_file_is_pillows_and_torchvisions_to_within_rounding(mode, kind, options, interpolation):
    """On a real photograph, smaller than the target, of its size, and larger."""
    palace = Image.fromarray(load_sample_image("china.jpg"))
    preset = v1.Compose([v1.Resize(256, PIL_NAMES[interpolation]), v1.CenterCrop(224)])
    for size in [(160, 120), (341, 256), (256, 256), (257, 300), (375, 500), (640, 427), (1500, 1000)]:
        data = encoded(palace.resize(size).convert(mode), kind, **options)
        with Image.open(io.BytesIO(data)) as opened:
            expected = pixels(preset(opened.convert("RGB"))).astype(int)
        difference = np.abs(Preprocessing(224, 256, interpolation).render(decode(data)).numpy() - expected)
        assert (difference > 0).mean() < 0.01, size
        assert (difference > 1).mean() < (1e-4 if interpolation == "bicubic" else 1e-9), size
        assert difference.max() <= 2, size


def test_normalized_view_is_what_the_published_weights_were_evaluated_on():
    photo = photograph(500, 375)
    preprocessing = Preprocessing(224, 256, "bilinear")
    view = preprocessing.render(torch.from_numpy(pixels(photo).copy()))
    expected = ImageClassification(crop_size=224, resize_size=256)(photo)
    difference = (preprocessing.normalize(view[None])[0] - expected).abs()
    assert difference.max() < 1.01 / 255 / min(preprocessing.std)
    assert difference.mean() < 1e-3


def test_nearest_exact_is_pillows_nearest():
    photo = photograph(101, 67)
    expected = v1.Compose([v1.Resize(40, InterpolationMode.NEAREST), v1.CenterCrop(32)])(photo)
    view = Preprocessing(32, 40, "nearest-exact").render(torch.from_numpy(pixels(photo).copy()))
    assert np.array_equal(view.numpy(), pixels(expected))


def test_images_smaller_than_the_crop_are_padded_with_black_like_torchvision():
    photo = photograph(40, 30)
    view = Preprocessing(64, 32).render(torch.from_numpy(pixels(photo).copy()))
    expected = pixels(v1.Compose([v1.Resize(32), v1.CenterCrop(64)])(photo)).astype(int)
    assert np.abs(view.numpy() - expected).max() <= 1
    assert view[:, 0].sum() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3, 5, 5), (1, 3, 32, 32), (3, 3, 1, 1), (0, 3, 8, 8)])
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(8, 8), Preprocessing(8, 8, mean=(0.1, 0.5, 0.3), std=(0.4, 0.5, 1.0))]
)
def test_normalization_is_exact_for_every_value_and_leaves_its_input_alone(preprocessing, size, layout):
    images = torch.randint(0, 256, size, dtype=torch.uint8).contiguous(memory_format=layout)
    before = images.clone()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    normalized = preprocessing.normalize(images)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), (images.double() / 255 - mean) / std, rtol=0, atol=1e-6)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("size", "resize"), [((60, 40), 36), ((32, 32), 32), ((40, 30), 24)])
def test_views_keep_the_channels_of_a_pixel_together_up_to_the_batch(size, resize):
    """The layout in which every step to the network is quick."""
    images = [decode(encoded(photograph(*size, seed), kind)) for seed, kind in enumerate(["JPEG", "PNG"])]
    views = [Preprocessing(32, resize).render(image) for image in images]
    assert [view.stride() for view in views] == [(1, 96, 3)] * 2
    batch = stack_pixels(views)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack(views))


def test_another_size_keeps_the_ratio_of_crop_to_resize():
    assert Preprocessing(224, 256).with_size(300) == Preprocessing(300, 343)
    assert Preprocessing(300, 300, "bicubic").with_size(224) == Preprocessing(224, 224, "bicubic")
    assert Preprocessing(224, 256).with_size(224) == Preprocessing(224, 256)


@pytest.mark.parametrize("interpolation", PIL_NAMES)
@pytest.mark.parametrize("mode", ["squash", "border"])
@pytest.mark.parametrize("size", [*SIZES, (40, 8), (33, 20)])
def test_other_crop_modes_are_timms_of_that_name_that_lose_nothing(size, mode, interpolation):
    photo = photograph(*size)
    preprocessing = Preprocessing(96, 110, interpolation, crop_mode=mode)
    timms = transforms_imagenet_eval(96, 1.0, crop_mode=mode, interpolation=interpolation, mean=preprocessing.mean)
    resize, crop = timms.transforms[:2]
    view = preprocessing.render(torch.from_numpy(pixels(photo).copy()))
    difference = np.abs(view.numpy() - pixels(crop(resize(photo))).astype(int))
    assert difference.max() <= (2 if interpolation == "bicubic" else 1)
    assert difference.mean() < 0.05
    assert view.stride() == (1, 288, 3)


def test_only_a_center_crop_leaves_out_what_lies_at_the_border():
    image = torch.zeros((3, 60, 90), dtype=torch.uint8)
    image[:, :6, :9] = image[:, -6:, -9:] = 255
    seen = {mode: Preprocessing(64, 64, crop_mode=mode).render(image) for mode in ("center", "squash", "border")}
    assert not seen["center"].any()
    assert [seen["squash"][0, row, row].item() for row in (1, 32, 62)] == [255, 0, 255]
    assert [seen["border"][0, row, column].item() for row, column in ((12, 1), (32, 32), (50, 62))] == [255, 0, 255]
    assert seen["border"][:, 0, 0].tolist() == [124, 116, 104]  # the mean color


@pytest.mark.parametrize(
    ("size", "resize", "share"), [((60, 80), 256, 0.574), ((90, 90), 224, 1), ((90, 30), 100, 0.747)]
)
def test_how_much_of_an_image_is_seen(size, resize, share):
    preprocessing = Preprocessing(224, resize)
    assert preprocessing.share_seen(*size) == pytest.approx(share, abs=1e-3)
    assert preprocessing.with_crop_mode("border").share_seen(*size) == 1


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_a_strip_can_be_seen_as_a_whole_of_any_number_of_channels(mode):
    strip = torch.full((5, 1, 100_000), 200, dtype=torch.uint8)
    view = Preprocessing(32, 36, mean=(0.5,) * 5, std=(1.0,) * 5, crop_mode=mode).render(strip)
    assert view.shape == (5, 32, 32)
    assert (view == 200).sum() == (5 * 32 * 32 if mode == "squash" else 5 * 32)


def test_json_round_trip_that_names_no_center_crop_as_it_always_did():
    preprocessing = Preprocessing(299, 342, "bicubic", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing
    assert list(preprocessing.to_json()) == ["image_size", "resize", "interpolation", "mean", "std"]
    squashed = preprocessing.with_crop_mode("squash")
    assert Preprocessing.from_json(json.loads(json.dumps(squashed.to_json()))) == squashed != preprocessing
    assert squashed.with_crop_mode("center") == squashed
    assert squashed.with_size(150) == Preprocessing(150, 172, "bicubic", (0.5,) * 3, (0.1, 0.2, 0.3), "squash")


@pytest.mark.parametrize(
    "wrong", [{"interpolation": "lanczos"}, {"image_size": 0}, {"resize": -1}, {"crop_mode": "middle"}]
)
def test_values_that_cannot_be_right_are_refused(wrong):
    with pytest.raises(UsageError):
        Preprocessing(**{"image_size": 8, "resize": 8, **wrong})


def test_a_strip_whose_resize_would_fill_the_memory_is_refused():
    with pytest.raises(UnreadableImageError, match="1 x 100000 pixels"):
        Preprocessing(224, 256).render(torch.zeros((3, 100_000, 1), dtype=torch.uint8))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(480, 360), (300, 500), (64, 40), (90, 90)])
def test_what_is_no_square_is_rendered_to_its_rows_and_columns(size, crop_mode):
    photo = torch.from_numpy(pixels(photograph(*size)).copy())
    preprocessing = Preprocessing("36x48", 40, crop_mode=crop_mode)
    view = preprocessing.render(photo)
    assert view.shape == (3, *preprocessing.shape) == (3, 36, 48)
    assert preprocessing.normalize(view[None]).shape == (1, 3, 36, 48)
    if crop_mode == "squash":
        expected = F.resize(photo, [36, 48], antialias=True)
        assert (view.int() - expected.int()).abs().max() <= 1
    elif crop_mode == "border":
        top, left, rows, columns = preprocessing.image_area(*photo.shape[-2:])
        assert abs(rows * photo.shape[-1] - columns * photo.shape[-2]) <= max(photo.shape[-2:])  # its own proportions
        assert max(rows / 36, columns / 48) == 1
        inside = torch.zeros(36, 48, dtype=torch.bool)
        inside[top : top + rows, left : left + columns] = True
        assert (view[:, ~inside] == torch.tensor(preprocessing.mean_color, dtype=torch.uint8)[:, None]).all()
    else:
        assert (view.amax(dim=0) > 0).float().mean() > 0.95  # the middle, and no black beside it


def test_a_size_comes_back_from_json_and_a_square_stays_one_number_however_it_is_written():
    for size, written in (("36x48", "36x48"), (" 36 X 48", "36x48"), ("36x36", 36), ("36", 36), (36, 36)):
        preprocessing = Preprocessing(size, 40, crop_mode="squash")
        assert preprocessing.to_json()["image_size"] == written
        assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing
    assert Preprocessing(224, 256).with_size("360x480").resize == 411  # the shorter side keeps the share of the crop
    assert Preprocessing(224, 256).with_size("360x480").with_size(224) == Preprocessing(224, 256)


@pytest.mark.parametrize("size", ["0x48", "36x", "large", "36x48x3", 0, "-36x48", "3.5"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UsageError, match="`image_size`"):
        Preprocessing(size, 40)

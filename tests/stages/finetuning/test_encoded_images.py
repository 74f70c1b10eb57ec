"""Training images decoded and augmented by a device: the renderings that a CPU makes one by one, of the same seeds."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.data.augment.policy import Augmentation, augmentation
from stages.data.augment.transforms import Transform
from stages.data.images.gpu_jpeg import decode_jpegs
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import load_manifest
from stages.extraction.extractor import build_extractor
from stages.finetuning.encoded_images import DeviceRenderer, EncodedImages
from stages.finetuning.finetune import finetune
from stages.finetuning.image_batches import AugmentedImages
from stages.finetuning.problem import FinetuneProblem
from stages.network.heads.linear import LinearHead
from tests.photographs import make_folder, photograph

READING = Reading(nvjpeg=True)
PREPROCESSING = Preprocessing(48, 56)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Photographs of many kinds: JPEGs, one of them turned, one gray, one CMYK, one without its end, and a PNG."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    for number in range(24):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = photograph(((30 + 9 * number) % 255, 90, 200 - 5 * number), number, side=120)
        image = image.resize((90 + 4 * number, 130 - 2 * number))
        name, options = f"{number:02}.jpg", {"quality": 95, "subsampling": 0}
        if number == 3:
            exif = Image.Exif()
            exif[274] = 6
            options["exif"] = exif
        if number == 5:
            name, options = f"{number:02}.png", {}
        image = image.convert({7: "L", 9: "CMYK"}.get(number, "RGB"))
        encoded = io.BytesIO()
        image.save(encoded, name.rsplit(".", 1)[1].replace("jpg", "jpeg"), **options)
        (place / name).write_bytes(encoded.getvalue()[: -2 if number == 11 else None])
    return load_manifest(DataConfig(str(folder)))


POSITIONS = [(2, index) for index in (3, 14, 13, 7, 16, 15, 17, 12, 20, 23)]
"""Of the batch: three that the CPU decodes, the one that is turned, the gray one, and others."""


def rendered(manifest, policy, device):
    """Return the renderings of a batch and its targets, and those made one by one on the CPU."""
    images = EncodedImages(manifest, policy, 7, READING)
    ((pixels, targets),) = DeviceRenderer(policy, READING, device).batches([images.__getitems__(POSITIONS)])
    alone = AugmentedImages(manifest, policy, 7)
    expected, expected_targets = zip(*[alone[position] for position in POSITIONS], strict=True)
    return pixels, targets, torch.stack(expected), torch.stack(expected_targets)


@pytest.mark.parametrize("augment", ["none", "medium", "crop(0.3)+vflip+rotation+blur+randomerasing"])
def test_a_batch_has_the_renderings_of_its_seeds_whatever_kind_of_file_an_image_is(manifest, augment):
    pixels, targets, expected, expected_targets = rendered(manifest, augmentation(augment, PREPROCESSING), CPU)
    assert torch.equal(targets, expected_targets)
    difference = (pixels.int() - expected.int()).abs()
    assert difference.max() <= 4
    assert (difference > 1).float().mean() < 0.005


def test_on_a_gpu_what_is_rendered_lies_there_and_is_the_same(manifest, pretended_cuda):
    pixels, targets, expected, expected_targets = rendered(manifest, augmentation("medium", PREPROCESSING), CUDA)
    assert pixels.device.type == "cuda"
    assert targets.tolist() == expected_targets.tolist()
    assert ((pixels.cpu().int() - expected.int()).abs() > 2).float().mean() < 0.01


def test_what_is_decoded_is_rendered_without_waiting_for_the_gpu(manifest, pretended_cuda, monkeypatch):
    policy = augmentation("medium", PREPROCESSING)
    batch = EncodedImages(manifest, policy, 7, READING).__getitems__(POSITIONS)
    files = [batch.data[jpeg.start : jpeg.stop] for jpeg in batch.jpegs]
    decoded = decode_jpegs(files, [jpeg.size for jpeg in batch.jpegs], CUDA)
    torch.cuda.synchronize()
    monkeypatch.setattr("stages.finetuning.encoded_images.decode_jpegs", lambda *_: decoded)
    renderer = DeviceRenderer(policy, READING, CUDA)
    before = pretended_cuda.synchronizations
    list(renderer.batches([batch]))
    assert pretended_cuda.synchronizations == before


def test_transforms_that_need_pixels_render_image_by_image_on_the_device(manifest, pretended_cuda):
    brighter = Transform("own", lambda image: (image.float() * 1.5).clamp(0, 255).to(torch.uint8))
    policy = augmentation("flip", PREPROCESSING)
    policy = Augmentation("own", PREPROCESSING, (*policy.transforms, brighter))
    pixels, _, expected, _ = rendered(manifest, policy, CUDA)
    assert (pixels.cpu().int() - expected.int()).abs().max() <= 2


def test_what_goes_from_process_to_process_is_files_and_not_pixels(manifest):
    images = EncodedImages(manifest, augmentation("medium", PREPROCESSING), 7, READING)
    batch = images.__getitems__(POSITIONS)
    files = [Path(manifest.locations[index]) for _, index in POSITIONS]
    of_cpu = [place for place, file in enumerate(files) if file.name[:2] in ("05", "09", "11")]
    assert batch.places == of_cpu == [1, 4, 6]
    assert len(batch.rendered) == len(of_cpu)
    for jpeg in batch.jpegs:  # planned for the image as it is turned, so that nobody has to plan it again
        with Image.open(files[jpeg.place]) as image:
            assert jpeg.upright == ImageOps.exif_transpose(image).size[::-1]
    assert len(batch.data) == sum(file.stat().st_size for file in files)


def test_an_image_that_has_gone_is_an_error_with_its_name(manifest, tmp_path):
    other = replace(manifest, locations=[str(tmp_path / "gone.jpg"), *manifest.locations[1:]])
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg.*no such file"):
        EncodedImages(other, augmentation("medium", PREPROCESSING), 7, READING).__getitems__([(1, 0)])


def test_a_batch_that_does_not_fit_is_rendered_in_parts(manifest, pretended_cuda):
    policy = augmentation("none", PREPROCESSING)
    images = EncodedImages(manifest, policy, 7, READING).__getitems__([(1, index) for index in range(12, 24)])
    renderer = DeviceRenderer(policy, READING, CUDA)
    ((whole, _),) = renderer.batches([images])
    whole = whole.cpu()
    pretended_cuda.largest_allocation = 3 * 48 * 56 * 4 * 6 * 3
    with pytest.warns(UserWarning, match="not enough memory on cuda for decoding and augmenting of . images"):
        ((parts, _),) = renderer.batches([images])
    pretended_cuda.largest_allocation = None
    assert torch.equal(whole, parts.cpu())


def test_fine_tuning_from_images_goes_the_same_way_on_a_gpu(tmp_path, pretended_cuda):
    folder = make_folder(tmp_path / "images", per_class=8)
    losses = {}
    for device in ("cpu", "cuda"):
        extractor = build_extractor(
            FeatureConfig(
                image_size=64, cache=tmp_path / "cache", device=device, precision="fp32", extract_batch_size=16
            )
        )
        assert extractor.reading.nvjpeg == (device == "cuda")
        manifest = load_manifest(DataConfig(str(folder)))
        torch.manual_seed(0)
        head = LinearHead(extractor.row_shape, len(manifest.class_names))
        options = FinetuneConfig(
            unfreeze="1", epochs=2, lr=1e-3, head_lr=1e-2, finetune_batch_size=8, num_workers=0, amp_dtype="none"
        )
        tuned = finetune(FinetuneProblem(extractor, manifest, head, options, 0))
        losses[device] = [epoch.val_loss for epoch in tuned.fit.history]
    assert np.allclose(losses["cpu"], losses["cuda"], rtol=0.05)
    assert losses["cuda"][-1] < losses["cuda"][0]

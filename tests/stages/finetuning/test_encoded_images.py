"""Training images decoded and augmented by a device: the renderings that a CPU makes one by one, of the same seeds."""

import io
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.data.augment.policy import Augmentation, augmentation
from stages.data.augment.transforms import Transform
from stages.data.images import gpu_jpeg
from stages.data.images.gpu_jpeg import decode_jpegs
from stages.data.images.preprocessing import Preprocessing
from stages.data.images.reading import Reading
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import Manifest, load_manifest
from stages.data.masks.mask_classes import MaskClasses
from stages.data.sample import ImageRef
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import build_extractor
from stages.finetuning.encoded_images import DeviceRenderer, EncodedImages, EncodedSamples, Encoder, as_it_is
from stages.finetuning.finetune import finetune
from stages.finetuning.image_batches import AugmentedImages
from stages.finetuning.masks import AugmentedMasks
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.sample_views import AugmentedSamples, CollateSamples, ViewSampler
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.lraspp import LRASPPMapHead
from stages.tasks.dense import Dense
from tests.dense_images import draw
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
    images = EncodedImages(manifest, 7, Encoder(policy, READING))
    ((pixels, targets),) = DeviceRenderer(Encoder(policy, READING), device).batches([images.__getitems__(POSITIONS)])
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
    batch = EncodedImages(manifest, 7, Encoder(policy, READING)).__getitems__(POSITIONS)
    files = [batch.data[jpeg.start : jpeg.stop] for jpeg in batch.jpegs]
    decoded = decode_jpegs(files, [jpeg.size for jpeg in batch.jpegs], CUDA)
    torch.cuda.synchronize()
    monkeypatch.setattr("stages.finetuning.encoded_images.decode_jpegs", lambda *_: decoded)
    renderer = DeviceRenderer(Encoder(policy, READING), CUDA)
    before = pretended_cuda.synchronizations
    list(renderer.batches([batch]))
    assert pretended_cuda.synchronizations == before


def test_no_batch_is_waited_for_while_it_is_rendered(manifest, pretended_cuda, monkeypatch):
    """Each call of the decoder waits for its stream."""
    batches = [EncodedImages(manifest, 7, Encoder(augmentation("none", PREPROCESSING), READING))] * 4
    streams = []

    def noted(files, sizes, device):
        streams.append(torch.cuda.current_stream())
        return decode_jpegs(files, sizes, device)

    monkeypatch.setattr("stages.finetuning.encoded_images.decode_jpegs", noted)
    renderer = DeviceRenderer(batches[0].encoder, CUDA)
    list(renderer.batches(images.__getitems__([(1, 0), (1, 2)]) for images in batches))
    assert len(streams) == 4
    assert all(one is not other for one, other in pairwise(streams))
    assert len({*streams, torch.cuda.current_stream()}) == 3


def test_photographs_are_let_go_of_before_more_are_decoded(manifest, monkeypatch):
    policy = augmentation("medium", PREPROCESSING)
    whole, *_ = rendered(manifest, policy, CPU)
    alive, most = weakref.WeakSet(), []

    def watched(files, sizes, device):
        decoded = decode_jpegs(files, sizes, device)
        most.append(len(alive))
        alive.update(decoded)
        return decoded

    monkeypatch.setattr("stages.finetuning.encoded_images.decode_jpegs", watched)
    monkeypatch.setattr(gpu_jpeg, "_PIXELS_AT_A_TIME", 10_000)
    parts, *_ = rendered(manifest, policy, CPU)
    assert len(most) > 2
    assert max(most) == 0
    assert torch.equal(parts, whole)


def test_transforms_that_need_pixels_render_image_by_image_on_the_device(manifest, pretended_cuda):
    brighter = Transform("own", lambda image: (image.float() * 1.5).clamp(0, 255).to(torch.uint8))
    policy = augmentation("flip", PREPROCESSING)
    policy = Augmentation("own", PREPROCESSING, (*policy.transforms, brighter))
    pixels, _, expected, _ = rendered(manifest, policy, CUDA)
    assert (pixels.cpu().int() - expected.int()).abs().max() <= 2


def test_what_goes_from_process_to_process_is_files_and_not_pixels(manifest):
    images = EncodedImages(manifest, 7, Encoder(augmentation("medium", PREPROCESSING), READING))
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
        EncodedImages(other, 7, Encoder(augmentation("medium", PREPROCESSING), READING)).__getitems__([(1, 0)])


def test_a_batch_that_does_not_fit_is_rendered_in_parts(manifest, pretended_cuda):
    policy = augmentation("none", PREPROCESSING)
    images = EncodedImages(manifest, 7, Encoder(policy, READING)).__getitems__([(1, index) for index in range(12, 24)])
    renderer = DeviceRenderer(Encoder(policy, READING), CUDA)
    ((whole, _),) = renderer.batches([images])
    whole = whole.cpu()
    pretended_cuda.largest_allocation = 3 * 48 * 56 * 4 * 6 * 3
    with pytest.warns(UserWarning, match="not enough memory on cuda for decoding and augmenting of . images"):
        ((parts, _),) = renderer.batches([images])
    pretended_cuda.largest_allocation = None
    assert torch.equal(whole, parts.cpu())


def test_fine_tuning_from_images_goes_the_same_way_on_a_gpu(tmp_path, gpu):
    folder = make_folder(tmp_path / "images", per_class=8, subsampling="4:4:4")
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
            unfreeze="1", epochs=2, lr=3e-4, head_lr=3e-3, finetune_batch_size=8, num_workers=0, amp_dtype="none"
        )
        tuned = finetune(FinetuneProblem(extractor, manifest, head, options, 0))
        losses[device] = [epoch.val_loss for epoch in tuned.fit.history]
    assert np.allclose(losses["cpu"], losses["cuda"], rtol=0.05)
    assert losses["cuda"][-1] < losses["cuda"][0]


CLASSES = MaskClasses(("left", "right", "dot"), False, ((0, 0), (1, 1), (2, 2), (255, 255)))


@pytest.fixture(scope="module")
def masks(manifest, tmp_path_factory):
    """The photographs with masks, of which some are of another size than their images."""
    folder, texts = tmp_path_factory.mktemp("masks"), []
    for number, location in enumerate(manifest.locations):
        height, width = read_image(location).shape[-2:]
        if number % 3 == 0:
            width, height = width // 2, height // 2
        mask = (np.arange(width)[None] >= width // 2).astype(np.uint8).repeat(height, 0)
        mask[number % 20 :: 9, 5:30] = 2
        mask[:3] = 255
        Image.fromarray(mask).save(folder / f"{number}.png")
        texts.append(str(folder / f"{number}.png"))
    return replace(manifest, targets=np.array(texts), task=Dense(CLASSES.names), mask_classes=CLASSES)


def with_masks(masks, policy, device, **changed):
    """Return renderings and labels of a batch, and those that the CPU makes one by one."""
    encoder = Encoder(policy, READING, CLASSES, (12, 14))
    batch = EncodedImages(masks, 7, encoder).__getitems__(POSITIONS)
    ((pixels, labels),) = DeviceRenderer(encoder, device).batches([batch])
    alone = AugmentedMasks(masks, (12, 14), policy, 7)
    expected, expected_labels = zip(*[alone[position] for position in POSITIONS], strict=True)
    return batch, pixels.cpu(), labels, torch.stack(expected), torch.stack(expected_labels)


MASKED = ["none", "light", "medium", "flip+rot90+rotation(90)", "crop(0.3)+vflip+shift+zoom+perspective+randomerasing"]


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("augment", MASKED)
def test_masks_lie_where_their_images_are_rendered(masks, pretended_cuda, augment, device):
    batch, pixels, labels, expected, expected_labels = with_masks(masks, augmentation(augment, PREPROCESSING), device)
    assert torch.equal(labels, expected_labels)
    assert labels.dtype == torch.uint8
    assert ((pixels.int() - expected.int()).abs() > 4).float().mean() < 0.001
    assert len(batch.jpegs) == len(POSITIONS) - 3  # of which the CPU decodes none


def test_masks_whose_images_cannot_be_planned_are_rendered_with_them(masks, pretended_cuda):
    def darker(image, *masks):
        seen = image if image.float().mean() > 0 else image.flip(-1)
        return (seen // 2, *masks) if masks else seen // 2

    transforms = (*augmentation("crop+flip", PREPROCESSING).transforms, Transform("own", darker))
    batch, pixels, labels, expected, expected_labels = with_masks(
        masks, Augmentation("own", PREPROCESSING, transforms), CUDA
    )
    assert batch.jpegs == []
    assert torch.equal(labels, expected_labels)
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize("wrong", ["size", "decoder"])
def test_an_image_that_turns_out_otherwise_takes_its_mask_with_it(masks, pretended_cuda, monkeypatch, wrong):
    if wrong == "size":  # than the header of the file said
        monkeypatch.setattr("stages.finetuning.encoded_images._upright", lambda size, data: (size.width, size.height))
    else:
        monkeypatch.setattr("stages.finetuning.encoded_images.decode_jpegs", lambda encoded, *_: [None] * len(encoded))
    policy = augmentation("medium", PREPROCESSING)
    batch, pixels, labels, expected, expected_labels = with_masks(masks, policy, CUDA)
    assert len(batch.jpegs) == len(POSITIONS) - 3
    assert torch.equal(labels, expected_labels)
    assert (pixels.int() - expected.int()).abs().float().mean() < 0.1


@pytest.fixture(scope="module")
def several(manifest):
    """Samples of up to three of the photographs, in which a view may be missing."""
    images = [ImageRef(*pair) for pair in zip(manifest.locations, manifest.keys, strict=True)]
    views = [(images[3 * row], images[3 * row + 1] if row % 2 else None, images[3 * row + 2]) for row in range(8)]
    firsts = manifest.select(range(0, 24, 3))
    return replace(firsts, images=views)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_samples_of_several_images_are_those_that_the_cpu_makes(several, pretended_cuda, device):
    policy, sampler, positions = (
        augmentation("medium", PREPROCESSING),
        ViewSampler(2, 7),
        [(3, 5), (3, 0), (3, 7), (3, 2)],
    )
    encoder = Encoder(policy, READING)
    batch = EncodedSamples(several, sampler, 7, 3, encoder).__getitems__(positions)
    renderer = DeviceRenderer(encoder, device)
    with pytest.MonkeyPatch.context() as patched:
        sizes = []
        patched.setattr(
            "stages.finetuning.encoded_images.decode_jpegs",
            lambda encoded, *rest: sizes.append(len(encoded)) or decode_jpegs(encoded, *rest),
        )
        ((samples, targets),) = renderer.batches([batch])
    assert max(sizes) <= 3  # as many as a batch may have
    assert sum(sizes) == len(batch.jpegs)
    alone = AugmentedSamples(several, sampler, policy, 7)
    expected, expected_targets = CollateSamples(3)([alone[position] for position in positions])
    assert (samples.sizes, samples.places, samples.at_a_time) == (expected.sizes, expected.places, 3)
    assert len(batch) == len(samples) == 4
    assert torch.equal(targets, expected_targets)
    assert samples.images.device.type == device.type
    difference = (samples.images.cpu().int() - expected.images.int()).abs()
    assert (difference > 4).float().mean() < 0.001
    assert (difference > 2).float().mean() < 0.01


@pytest.mark.parametrize("kind", ["masks", "samples"])
def test_batches_come_from_other_processes_as_they_are(kind, masks, several):
    policy = augmentation("medium", PREPROCESSING)
    if kind == "masks":
        encoder = Encoder(policy, READING, CLASSES, (12, 14))
        images = EncodedImages(masks, 7, encoder)
    else:
        encoder = Encoder(policy, READING)
        images = EncodedSamples(several, ViewSampler(2, 7), 7, 3, encoder)
    parts = [[(1, 0), (1, 3)], [(1, 5), (1, 6), (1, 2)]]
    loader = DataLoader(images, batch_sampler=parts, collate_fn=as_it_is, num_workers=2)
    renderer = DeviceRenderer(encoder, CPU)
    here = renderer.batches(map(images.__getitems__, parts))
    for (pixels, targets), (expected, expected_targets) in zip(renderer.batches(loader), here, strict=True):
        assert torch.equal(targets, expected_targets)
        if kind == "samples":
            assert (pixels.sizes, pixels.places) == (expected.sizes, expected.places)
            pixels, expected = pixels.images, expected.images
        assert torch.equal(pixels, expected)


def trained_on(device, folder, manifest, head_of, monkeypatch, unfreeze="1", **options):
    """Return the validation losses of two epochs, and how many images the GPU decoded and Python read."""
    extractor = build_extractor(
        FeatureConfig(
            image_size=64, cache=folder / "cache", device=device, precision="fp32", extract_batch_size=16, **options
        )
    )
    decoded, read = [], []
    with monkeypatch.context() as patched:
        patched.setattr(
            "stages.finetuning.encoded_images.decode_jpegs",
            lambda encoded, *rest: decoded.extend(encoded) or decode_jpegs(encoded, *rest),
        )
        for module in ("encoded_images", "masks", "sample_views"):
            patched.setattr(
                f"stages.finetuning.{module}.read_image",
                lambda place, *rest: read.append(place) or read_image(place, *rest),
            )
        torch.manual_seed(0)
        config = FinetuneConfig(
            unfreeze=unfreeze, epochs=2, lr=1e-3, head_lr=1e-2, finetune_batch_size=8, num_workers=0, amp_dtype="none"
        )
        tuned = finetune(FinetuneProblem(extractor, manifest, head_of(extractor), config, 0))
    return [epoch.val_loss for epoch in tuned.fit.history], len(decoded), len(read)


def test_fine_tuning_with_masks_goes_the_same_way_on_a_gpu(tmp_path, gpu, monkeypatch):
    locations, masks = [], []
    for number in range(16):
        pixels, mask = draw(number)
        locations.append(str(tmp_path / f"{number}.jpg"))
        masks.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(locations[-1], quality=95, subsampling=0)
        Image.fromarray(mask).save(masks[-1])
    keys, splits = [f"{number:032x}" for number in range(16)], ["train"] * 8 + ["val"] * 8
    task = Dense(CLASSES.names)
    manifest = Manifest(locations, np.array(masks), splits, keys, task, mask_classes=CLASSES, target_keys=keys)

    def head_of(extractor):
        layout = extractor.map_layout
        return LRASPPMapHead((layout.width,), 3, layout.to_json(), dropout=0.0, width=8).to(extractor.device)

    options = {
        "unfreeze": "blocks.5",
        "cut": "blocks.4,blocks.6",
        "pool": "none",
        "crop_mode": "squash",
        "augment": "crop(0.5)+flip",
    }
    on_cpu, none, _ = trained_on("cpu", tmp_path, manifest, head_of, monkeypatch, **options)
    on_gpu, decoded, read = trained_on("cuda", tmp_path, manifest, head_of, monkeypatch, **options)
    assert (none, read) == (0, 0)
    assert decoded == 2 * 8 + 8  # validation images once, whose frozen outputs are kept
    assert np.allclose(on_cpu, on_gpu, rtol=0.05, atol=1e-3)
    assert on_gpu[-1] < on_gpu[0]


def test_fine_tuning_on_samples_of_several_images_goes_the_same_way_on_a_gpu(tmp_path, gpu, monkeypatch):
    folder = make_folder(tmp_path / "images", per_class=8, subsampling="4:4:4")
    single = load_manifest(DataConfig(str(folder)))
    refs = [ImageRef(*pair) for pair in zip(single.locations, single.keys, strict=True)]
    images = [(ref, ref if row % 2 else None) for row, ref in enumerate(refs)]
    manifest = replace(single, images=images)

    def head_of(extractor):
        aggregate = Aggregate("mean", places=2, features=extractor.row_shape[0])
        return AggregatedHead(aggregate, LinearHead(extractor.row_shape, len(single.class_names))).to(extractor.device)

    on_cpu, none, _ = trained_on("cpu", tmp_path, manifest, head_of, monkeypatch)
    on_gpu, decoded, read = trained_on("cuda", tmp_path, manifest, head_of, monkeypatch)
    assert (none, read) == (0, 0)
    assert decoded > 2 * len(manifest.indices("train"))
    assert np.allclose(on_cpu, on_gpu, rtol=0.05, atol=1e-3)
    assert on_gpu[-1] < on_gpu[0]

"""The engine of a GPU, with a CPU as the device: who decodes what, order, failures, and the same rows in any case."""

import itertools
import os
import random
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cache.errors import CutonceError, UsageError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.augment.batched import render_planned
from stages.data.augment.policy import Augmentation, augmentation
from stages.data.augment.transforms import Transform
from stages.data.image_stream import ImageRequest, RequestedViews
from stages.data.images import gpu_jpeg
from stages.data.images.codecs import torchcodec_decoders
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.reading import Reading
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction import extractor as extractor_module
from stages.extraction import gpu_engine
from stages.extraction.engine import on_cores
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.gpu_engine import on_gpu
from stages.extraction.read_features import read_features
from stages.extraction.stand_in import stand_in
from tests.photographs import make_folder, photograph
from tests.pretended_cuda import CUDAGraph

CPU = torch.device("cpu")
READING = Reading(nvjpeg=True)
PREPROCESSING = Preprocessing(24, 28)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Photographs of many sizes and kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("images")
    chance = random.Random(0)
    kinds = [
        ("a.jpg", {}),
        ("p.jpg", {"progressive": True}),
        ("c.png", {}),
        ("g.jpg", {}),
        ("k.jpg", {}),
        ("w.webp", {}),
    ]
    for number in range(60):
        ending, settings = kinds[number % len(kinds)]
        image = photograph((10 + 3 * number, 90, 200), number, side=40)
        image = image.resize((chance.randrange(20, 90), chance.randrange(20, 90)))
        image = image.convert({"g.jpg": "L", "k.jpg": "CMYK"}.get(ending, "RGB"))
        image.save(folder / f"{number:02}{ending}", **settings)
    turned = photograph((10, 90, 200), 99, side=40).resize((60, 30))
    exif = Image.Exif()
    exif[274] = 6
    turned.save(folder / "60turned.jpg", exif=exif)
    whole = (folder / "00a.jpg").read_bytes()
    (folder / "61cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "62noend.jpg").write_bytes(whole[:-2])
    (folder / "63text.jpg").write_text("no image")
    return [*sorted(map(str, folder.iterdir())), str(folder / "64gone.jpg")]


def plain(file):
    return ImageRequest(file, PREPROCESSING.render, READING, views=RequestedViews(PREPROCESSING))


def mean_colors(images):
    return [images.float().mean((2, 3)), images[:, 0].float()]


def outcome(batches):
    rows = [np.concatenate(arrays) for arrays in zip(*[batch.rows for batch in batches if batch.rows], strict=True)]
    indices = [index for batch in batches for index in batch.indices]
    return rows, indices, [failure for batch in batches for failure in batch.failures]


def run(requests, batch_size=16, threads=2, renderings=1, compute=mean_colors):
    return list(on_gpu(requests, compute, CPU, batch_size, threads, renderings))


def test_rows_and_failures_are_those_of_the_other_engines(files):
    batches = run(map(plain, files))
    rows, indices, failures = outcome(batches)
    expected, expected_indices, expected_failures = outcome(list(on_cores(map(plain, files), mean_colors, CPU, 7, 2)))
    assert (indices, failures) == (expected_indices, expected_failures)
    assert batches[-1].finished == len(files)
    assert [index for index, _ in failures] == [61, 63, 64]  # one without its end marker is shown by every viewer
    for ours, theirs in zip(rows, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2)
    assert np.abs(rows[1] - expected[1]).mean() < 0.05


def test_rows_are_the_same_in_any_order_and_any_division(files):
    (_, pixels), indices, failures = outcome(run(map(plain, files)))
    by_file = dict(zip([files[index] for index in indices], pixels, strict=True))
    for seed, part in enumerate((1, 3, 16)):
        order = random.Random(seed).sample(files, len(files))
        (_, others), other_indices, other_failures = outcome(run(map(plain, order), batch_size=part))
        assert other_indices == sorted(other_indices)
        assert {order[index] for index, _ in other_failures} == {files[index] for index, _ in failures}
        for index, row in zip(other_indices, others, strict=True):
            assert np.array_equal(row, by_file[order[index]])


def test_the_device_decodes_what_it_can_and_the_cpu_the_rest(files, monkeypatch):
    decoders = torchcodec_decoders()
    decode = decoders.decode_jpeg
    on_device = []

    def counted(source, **settings):
        if isinstance(source, list):
            on_device.append(len(source))
        return decode(source, **settings)

    monkeypatch.setattr(decoders, "decode_jpeg", counted)
    outcome(run(map(plain, files)))
    assert sum(on_device) == 21  # of 60 a third are baseline, in color or gray, and one is turned
    on_device.clear()
    outcome(run([ImageRequest(file, PREPROCESSING.render) for file in files]))  # not asked for
    assert not on_device


def test_an_image_that_the_decoder_does_not_take_is_decoded_by_the_cpu_and_its_companions_stay(files, monkeypatch):
    (_, pixels), indices, _ = outcome(run(map(plain, files)))
    decoders = torchcodec_decoders()
    decode = decoders.decode_jpeg
    refused = [Path(file).stat().st_size for file in (files[0], files[7])]

    def refuses(source, **settings):
        if isinstance(source, list) and any(len(data) in refused for data in source):
            raise RuntimeError("nvJPEG: not supported")
        return decode(source, **settings)

    monkeypatch.setattr(decoders, "decode_jpeg", refuses)
    (_, others), other_indices, _ = outcome(run(map(plain, files)))
    assert other_indices == indices
    same = [np.array_equal(row, other) for row, other in zip(pixels, others, strict=True)]
    assert all(same[2:7] + same[8:])
    np.testing.assert_allclose(others, pixels, atol=2)


def test_photographs_are_let_go_of_before_more_are_decoded(files, monkeypatch):
    """Of a batch of 256 with 12 megapixels each there would be nine gigabytes."""
    expected = outcome(run(map(plain, files)))
    decoders = torchcodec_decoders()
    decode = decoders.decode_jpeg
    alive, most = weakref.WeakSet(), []

    def watched(source, **settings):
        decoded = decode(source, **settings)
        if isinstance(source, list):
            most.append(len(alive))
            alive.update(decoded)
        return decoded

    monkeypatch.setattr(decoders, "decode_jpeg", watched)
    monkeypatch.setattr(gpu_jpeg, "_PIXELS_AT_A_TIME", 6_000)
    rows, *rest = outcome(run(map(plain, files)))
    assert len(most) > 8
    assert max(most) == 0
    assert (rest, all(map(np.array_equal, rows, expected[0]))) == ([*expected[1:]], True)


def test_files_are_read_ahead_while_there_is_room_for_them(files, monkeypatch):
    """Of six parts of 256 photographs with eight megabytes each there would be twelve gigabytes."""
    expected = outcome(run(map(plain, files), batch_size=4))
    jpegs = [file for file in files if file.endswith(".jpg") and Path(file).exists()]
    of_part = max(sum(Path(file).stat().st_size for file in jpegs[start : start + 4]) for start in range(len(jpegs)))
    decoders = torchcodec_decoders()
    read, decode, data, most = gpu_engine.read_encoded, decoders.decode_jpeg, [], []

    def watched(locations, before):
        found = read(locations, before)
        data.append(weakref.ref(found.data))
        return found

    def slow(source, **settings):
        if isinstance(source, list):
            time.sleep(0.05)  # for who reads to get ahead
            most.append(sum(there.nbytes for one in data if (there := one()) is not None))
        return decode(source, **settings)

    monkeypatch.setattr(gpu_engine, "read_encoded", watched)
    monkeypatch.setattr(decoders, "decode_jpeg", slow)
    monkeypatch.setattr(gpu_engine, "_READ_BYTES", of_part)
    rows, *rest = outcome(run(map(plain, files), batch_size=4))
    assert max(most) <= 3 * of_part  # what is decoded, what is next, and what is ahead
    assert (rest, all(map(np.array_equal, rows, expected[0]))) == ([*expected[1:]], True)
    monkeypatch.setattr(gpu_engine, "_READ_BYTES", 1)
    assert outcome(run(map(plain, files), batch_size=4))[1] == expected[1]
    with pytest.raises(ZeroDivisionError):  # and nobody waits for ever
        run(map(plain, files), batch_size=4, compute=lambda _: 1 / 0)


def test_several_renderings_of_an_image_follow_each_other(files):
    def renderings(image):
        return stack_pixels([PREPROCESSING.render(image), 255 - PREPROCESSING.render(image)])

    sizes = []

    def compute(images):
        sizes.append(len(images))
        return mean_colors(images)

    requests = [ImageRequest(file, renderings, READING, renderings=2) for file in files]
    (means, _), indices, _ = outcome(run(requests, renderings=2, compute=compute))
    assert max(sizes) <= 16
    assert indices[:4] == [0, 0, 1, 1]
    np.testing.assert_allclose(means[::2] + means[1::2], 255, atol=1e-3)


def test_batches_are_full_where_requests_want_fewer_renderings_than_others(files):
    """As where most views of the images are cached already: what is not there would be filled up with black."""

    def twice(image):
        return stack_pixels([PREPROCESSING.render(image)] * 2)

    sizes = []
    good = files[:32]
    requests = [*map(plain, good[:16]), *(ImageRequest(file, twice, READING, renderings=2) for file in good[16:])]
    outcome(run(requests, renderings=4, compute=lambda images: sizes.append(len(images)) or mean_colors(images)))
    assert sizes == [16, 16, 16]


def test_remarks_are_counted_whoever_decodes(files):
    def remark(height, width):
        return "wide" if width > height else ""

    requests = [
        ImageRequest(file, PREPROCESSING.render, READING, remark, RequestedViews(PREPROCESSING) if number % 2 else None)
        for number, file in enumerate(files)
    ]
    counted = sum((batch.remarks for batch in run(requests)), start=type(run(requests)[0].remarks)())
    expected = sum((batch.remarks for batch in on_cores(requests, mean_colors, CPU, 16, 2)), start=type(counted)())
    assert counted == expected
    assert counted["wide"] > 10


def test_a_strip_is_a_failure_and_ends_nothing(files, tmp_path):
    path = tmp_path / "strip.jpg"
    Image.new("RGB", (60_000, 1)).save(path)
    preprocessing = Preprocessing(224, 256)
    requests = [
        ImageRequest(str(file), preprocessing.render, READING, views=RequestedViews(preprocessing))
        for file in (path, files[0])
    ]
    _, indices, failures = outcome(run(requests))
    assert indices == [1]
    assert failures == [(0, "60000 x 1 pixels are too long and thin to be resized")]


def test_stages_are_told_apart_and_threads_end_with_the_iteration(files):
    before = set(threading.enumerate())
    batches = run(map(plain, files * 4))
    busy = {stage for batch in batches for stage in batch.busy}
    assert busy == {"read", "decode", "forward", "interpreter"}  # without a stream nothing is copied beside
    assert sum(batch.busy["decode"] for batch in batches) > 0
    started = on_gpu(map(plain, files * 40), mean_colors, CPU, 16, 2)
    next(started)
    started.close()
    assert set(threading.enumerate()) == before


def test_no_call_of_the_decoder_waits_for_the_part_before_and_nothing_is_computed_on_the_default_stream(
    pretended_cuda, files, monkeypatch
):
    decoders = torchcodec_decoders()
    decode, decoding, computing = decoders.decode_jpeg, [], []

    def noted(source, **settings):
        if isinstance(source, list):
            decoding.append(torch.cuda.current_stream())
        return decode(source, **settings)

    def compute(images):
        computing.append(torch.cuda.current_stream())
        return mean_colors(images)

    monkeypatch.setattr(decoders, "decode_jpeg", noted)
    jpegs = [file for file in files[:60] if file.endswith(("a.jpg", "g.jpg"))]  # each is decoded in one call
    requests = on_gpu(map(plain, jpegs), compute, torch.device("cuda:0"), 4, 2)
    streams = {torch.cuda.current_stream() for _ in requests}  # who asks stays on his own
    assert len(decoding) == 5
    assert all(one is not other for one, other in itertools.pairwise(decoding))
    assert len({*decoding}) == 2
    assert len({*computing}) == 1
    assert len({*streams, *decoding, *computing}) == 4


def test_what_computing_raises_ends_it(files):
    intervals = [sys.getswitchinterval()]

    def fails(_):
        intervals.append(sys.getswitchinterval())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(map(plain, files), compute=fails)
    assert intervals == pytest.approx([intervals[0], 0.001])  # see `short_turns`
    assert sys.getswitchinterval() == intervals[0]


def test_no_requests_and_no_readable_image_give_no_rows(tmp_path):
    assert run([]) == []
    (tmp_path / "bad.jpg").write_text("no image")
    [batch] = run(map(plain, [str(tmp_path / "bad.jpg")]))
    assert (batch.rows, batch.indices, batch.finished) == ([], [], 1)


def features(folder, cache, **options):
    extractor = build_extractor(FeatureConfig(**{"weights": "none", "image_size": 64, "cache": cache, **options}))
    manifest = load_manifest(DataConfig(str(folder)))
    report = extract(extractor, manifest)
    return read_features(extractor, manifest), report, extractor


@pytest.mark.parametrize(
    ("subsampling", "alike", "options"),
    [
        ("4:2:0", 0.99, {}),  # of which a GPU shows other colors
        ("4:4:4", 0.999, {}),
        ("4:4:4", 0.999, {"taps": "stages", "pool": "avg,max"}),
        ("4:4:4", 0.999, {"augment": "light", "views": 2}),
    ],
)
def test_extraction_on_a_gpu_gives_the_rows_of_a_cpu(gpu, tmp_path, subsampling, alike, options):
    folder = make_folder(tmp_path / "images", per_class=12, subsampling=subsampling)
    rows, report, extractor = features(folder, tmp_path / "cache", precision="fp32", **options)
    assert extractor.reading.decoder == "pixels+nvjpeg/2"
    assert extractor.device.type == "cuda"
    assert sum(graph.replays for graph in gpu.graphs) > 0
    assert set(report.shares) >= {"read", "decode", "forward", "copy", "interpreter", "write"}
    expected, _, laptop = features(folder, tmp_path / "cache", device="cpu", **options)
    assert laptop.reading.decoder == "pixels/2"
    assert laptop.trunk.precision == "fp32"
    assert report.fingerprints != [tap.cache.spec.fingerprint for tap in laptop.taps]
    assert np.corrcoef(rows.ravel().astype(float), expected.ravel().astype(float))[0, 1] > alike


RECORDED = ("resnet18", "mobilenet_v3_small", "convnext_tiny", "timm:vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("backbone", "precision"), [*itertools.product(RECORDED, ("bf16", "fp16")), ("vit_b_16", "bf16")]
)
def test_networks_of_all_kinds_are_recorded(gpu, tmp_path, backbone, precision):
    """None of them is taken for one that waits, in autocast neither."""
    extractor = build_extractor(
        FeatureConfig(
            backbone=backbone,
            weights="none",
            image_size=224 if "vit" in backbone else 32,
            cache=tmp_path,
            precision=precision,
            extract_batch_size=1,
        )
    )
    images = torch.randint(256, (1, 3, *extractor.image_shape), dtype=torch.uint8).cuda()
    first, again = extractor.forward_rows(images), extractor.forward_rows(images)
    assert [graph.replays for graph in gpu.graphs] == [3]  # a black batch, before all others
    assert torch.equal(first[0].cpu(), again[0].cpu())


def features_launched(extractor):
    return extractor.launched(lambda images: [extractor.features(images)], images=None)


def test_what_was_recorded_goes_with_the_extractor(gpu, tmp_path, no_collector):
    """Its graphs have memory that torch cannot take back from them."""
    extractor = build_extractor(
        FeatureConfig(weights="none", image_size=32, cache=tmp_path, precision="fp32", extract_batch_size=2)
    )
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8).cuda()
    extractor.forward_rows(images)
    others = [features_launched(extractor) for _ in range(2)]
    gone = [weakref.ref(batches) for batches in (extractor._passes, *others)]
    del extractor, others
    assert [reference() for reference in gone] == [None] * 3


def test_a_gpu_computes_in_what_is_quickest_unless_told_otherwise(pretended_cuda, tmp_path):
    def precision(**options):
        return build_extractor(FeatureConfig(weights="none", image_size=32, cache=tmp_path, **options)).trunk.precision

    assert (precision(), precision(precision="tf32"), precision(device="cpu")) == ("bf16", "tf32", "fp32")
    pretended_cuda.bf16 = False
    assert (precision(), precision(precision="auto"), precision(precision="fp32")) == ("fp16", "fp16", "fp32")
    for name in ("bf16", "tf32"):
        with pytest.raises(UsageError, match=f"`precision` {name}.*Ampere"):
            precision(precision=name)


def test_twelve_threads_at_most_decode_beside_a_gpu_unless_told_otherwise(pretended_cuda, tmp_path, monkeypatch):
    def threads(**options):
        return build_extractor(FeatureConfig(weights="none", image_size=32, cache=tmp_path, **options)).threads

    for cores, beside in ((4, 4), (64, 12)):
        monkeypatch.setattr(extractor_module, "usable_cores", lambda cores=cores: cores)
        assert threads() == beside
        assert threads(device="cpu") == cores
        assert threads(decode_threads=40) == 40


def test_who_decodes_is_told_and_refused_where_it_cannot(pretended_cuda, tmp_path):
    def decoder(**options):
        return build_extractor(FeatureConfig(weights="none", image_size=32, cache=tmp_path, **options)).reading.decoder

    assert decoder(decode_on="cpu") == "pixels/2"
    assert decoder(decoding="reduced") == "pixels+nvjpeg/2"  # always in full
    assert decoder(channels="1") == "pixels/2 channels=1"
    with pytest.raises(UsageError, match="`decode_on` cuda: `channels` 1 and `page` first are read on a CPU"):
        decoder(decode_on="cuda", channels="1")
    with pytest.raises(UsageError, match="`decode_on` cuda: the `device` is cpu; use auto, or cpu"):
        decoder(decode_on="cuda", device="cpu")


def test_a_batch_that_does_not_fit_is_halved_with_a_word_about_it(pretended_cuda, tmp_path):
    folder = make_folder(tmp_path / "images", per_class=12)
    expected, *_ = features(folder, tmp_path / "cache", precision="fp32")
    pretended_cuda.largest_allocation = 9 * 96 * 32 * 32 * 4  # of the widest layer, for nine images
    with pytest.warns(UserWarning, match="not enough memory") as warned:
        rows, report, _ = features(folder, tmp_path / "other", precision="fp32", extract_batch_size=32)
    assert report.samples == 36
    assert [str(warning.message) for warning in warned if "memory" in str(warning.message)] == [
        f"not enough memory on cuda for the forward pass of {count} images: {count // 2} at a time from now on"
        for count in (32, 16)
    ]
    np.testing.assert_allclose(rows, expected, atol=2e-3)
    pretended_cuda.largest_allocation = 200_000  # of four images that are rendered
    requests = [plain(str(file)) for file in sorted(folder.rglob("*.jpg"))]
    assert len(outcome(list(on_gpu(requests, mean_colors, torch.device("cuda:0"), 4, 2)))[1]) == 36
    pretended_cuda.largest_allocation = 2 << 20
    with pytest.raises(CutonceError, match="not enough for the forward pass of one image"):
        features(make_folder(tmp_path / "few", per_class=3), tmp_path / "none", precision="fp32", image_size=256)
    pretended_cuda.largest_allocation = 1000
    with pytest.raises(CutonceError, match=r"not enough memory to decode and render 4 images: .*`extract_batch_size`"):
        list(on_gpu(requests, mean_colors, torch.device("cuda:0"), 4, 2))
    with pytest.raises(CutonceError, match=r"cuda has not enough memory for the network, 1[0-9]\.[0-9] MB of numbers"):
        features(folder, tmp_path / "none", precision="fp32")


def views_of(file, mirrored=(False,), augment=None, seeds=()):
    """A request for evaluation views, and augmented ones, of a file."""

    def render(image):
        view = PREPROCESSING.render(image)
        looks = [view.flip(-1) if mirror else view for mirror in mirrored]
        return stack_pixels([*looks, *(augment(image, seed) for seed in seeds)])

    views = RequestedViews(PREPROCESSING, mirrored, augment, seeds)
    return ImageRequest(file, render, READING, None, views, len(mirrored) + len(seeds))


def pixels_of(requests, renderings, **settings):
    """Return the rows of red levels, [n, renderings, S, S], of images that can be read, and the numbers of these."""
    (_, pixels), indices, failures = outcome(run(requests, renderings=renderings, **settings))
    return pixels.reshape(-1, renderings, *pixels.shape[1:]), indices[::renderings], failures


OWN = Augmentation(
    "own",
    PREPROCESSING,
    (
        *augmentation("crop+flip", PREPROCESSING).transforms,
        # needs the pixels, and so has no plan, for some seeds
        Transform("", lambda image: image // 2 if torch.rand(()) < 0.5 else image.flip(-1).clamp(0, 255)),
        Transform("", v2.RandomRotation(30, v2.InterpolationMode.BILINEAR)),
    ),
)
NOW_AND_THEN = Augmentation(
    "now and then",
    PREPROCESSING,
    (
        *augmentation("crop+flip", PREPROCESSING).transforms,
        Transform("", v2.RandomApply([v2.Lambda(lambda image: image // 2)], p=0.5)),
    ),
)
AUGMENTATIONS = {
    **{name: augmentation(name, PREPROCESSING) for name in ("none", "light", "medium", "strong", "flip+blur+rotation")},
    "own": OWN,
    "now and then": NOW_AND_THEN,
}


def test_some_views_can_be_planned_and_some_cannot():
    plans = [NOW_AND_THEN.plan_if_possible(40, 50, seed) is None for seed in range(20)]
    assert {*plans} == {True, False}
    assert OWN.plan_if_possible(40, 50, 0) is None


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_view_is_a_function_of_image_and_seed_whatever_is_rendered_with_it(files, name):
    augment = AUGMENTATIONS[name]

    def seeds_of(file):
        return tuple(files.index(file) * 10 + view for view in (1, 2, 3))

    every, indices, failures = pixels_of([views_of(file, (False,), augment, seeds_of(file)) for file in files], 4)
    assert indices == [index for index in range(len(files)) if index not in (61, 63, 64)]
    assert [index for index, _ in failures] == [61, 63, 64]  # once each
    alone, _, _ = pixels_of(map(plain, files), 1)
    assert np.array_equal(every[:, 0], alone[:, 0])
    kept = [files[index] for index in indices]
    expected = np.stack([[augment(read_image(file, READING), seed)[0] for seed in seeds_of(file)] for file in kept])
    difference = np.abs(every[:, 1:].astype(int) - expected.astype(int))
    assert (difference > 2).mean() < 0.03
    assert (difference > 0).mean() < 0.1
    rows = {(file, view): every[row, view] for row, file in enumerate(kept) for view in range(4)}
    for number, wanted in enumerate(((3,), (1, 2), (2, 3))):
        order = random.Random(number).sample(files, len(files))
        requests = [views_of(file, (), augment, tuple(seeds_of(file)[view - 1] for view in wanted)) for file in order]
        some, some_indices, _ = pixels_of(requests, len(wanted), batch_size=(4, 7, 64)[number])
        for row, index in enumerate(some_indices):
            for place, view in enumerate(wanted):
                assert np.array_equal(some[row, place], rows[order[index], view])


def test_views_of_many_images_are_rendered_at_once(files, monkeypatch):
    sizes = []

    def counted(images, plans, preprocessing):
        sizes.append(len(plans))
        return render_planned(images, plans, preprocessing)

    monkeypatch.setattr("stages.extraction.gpu_engine.render_planned", counted)
    pixels_of([views_of(file, (False,), AUGMENTATIONS["medium"], (1, 2)) for file in files], 3, batch_size=48)
    assert sum(sizes) == 2 * 21  # of what the device decodes
    assert len(sizes) == 4  # one for each part that has any


def test_views_that_do_not_fit_are_rendered_in_parts(files, pretended_cuda):
    requests = [views_of(file, (), AUGMENTATIONS["medium"], (1, 2)) for file in files]
    pretended_cuda.peak = 0
    whole = outcome(list(on_gpu(requests, mean_colors, torch.device("cuda:0"), 48, 2, 2)))
    pretended_cuda.largest_allocation = pretended_cuda.peak - 1
    with pytest.warns(UserWarning, match="not enough memory on cuda:0 for rendering of"):
        parts = outcome(list(on_gpu(requests, mean_colors, torch.device("cuda:0"), 48, 2, 2)))
    pretended_cuda.largest_allocation = None
    assert whole[1:] == parts[1:]
    assert all(map(np.array_equal, whole[0], parts[0]))


def test_a_strip_takes_no_companion_with_it_whichever_of_its_views_is_lacking(files, tmp_path):
    path = tmp_path / "strip.jpg"
    Image.new("RGB", (60_000, 1)).save(path)
    preprocessing = Preprocessing(224, 256)
    flip = augmentation("flip", preprocessing)

    def request(file, mirrored):
        views = RequestedViews(preprocessing, mirrored, flip, (1, 2))
        count = 2 + len(mirrored)
        return ImageRequest(
            str(file), lambda image: stack_pixels([flip(image, 1)] * count), READING, None, views, count
        )

    for mirrored in ((False,), ()):
        count = 2 + len(mirrored)
        alone, indices, _ = pixels_of([request(file, mirrored) for file in files[:2]], count, batch_size=9)
        beside, indices_beside, failures = pixels_of(
            [request(file, mirrored) for file in (files[0], path, files[1])], count, batch_size=9
        )
        assert (indices, indices_beside) == ([0, 1], [0, 2])
        assert failures == [(1, "60000 x 1 pixels are too long and thin to be resized")]
        assert np.array_equal(alone, beside)


def test_the_evaluation_view_is_the_same_whatever_comes_after_it(files):
    """With its mirror image, with the mirror image alone, and with augmented views."""
    alone, indices, _ = pixels_of(map(plain, files), 1)
    both, indices_of_both, _ = pixels_of([views_of(file, (False, True)) for file in files], 2)
    mirror, _, _ = pixels_of([views_of(file, (True,)) for file in files], 1)
    assert indices_of_both == indices
    assert np.array_equal(both[:, :1], alone)
    assert np.array_equal(both[:, 1:], alone[..., ::-1])
    assert np.array_equal(mirror, alone[..., ::-1])


def test_views_that_a_gpu_renders_say_so_in_their_spec_and_serve_a_laptop(pretended_cuda, tmp_path):
    folder = make_folder(tmp_path / "images", per_class=4)
    manifest = load_manifest(DataConfig(str(folder)))
    options = {"precision": "fp32", "augment": "medium", "views": 3}
    _, report, server = features(folder, tmp_path / "cache", **options)
    assert report.extracted == len(manifest)
    assert server.taps[0].view_cache.spec.views["version"] == 2

    def version(**changes):
        options_here = {"weights": "none", "image_size": 64, "cache": tmp_path / "cache", **options, **changes}
        return build_extractor(FeatureConfig(**options_here)).taps[0].view_cache.spec.views["version"]

    assert version(decode_on="cpu") == version(device="cpu") == 1
    assert version(mirror=True, views=1) == 1  # which are evaluation views
    laptop = build_extractor(
        FeatureConfig(weights="none", image_size=64, cache=tmp_path / "cache", device="cpu", augment="medium", views=3)
    )
    taken = stand_in(laptop, manifest.keys)
    assert taken.taps[0].view_cache.spec == server.taps[0].view_cache.spec
    assert extract(taken, manifest).extracted == 0


@pytest.mark.parametrize("options", [{"mirror": True}, {"augment": "light", "views": 2}])
def test_rows_of_an_image_do_not_depend_on_what_else_was_lacking(pretended_cuda, tmp_path, options):
    folder = make_folder(tmp_path / "images", per_class=4)
    features(folder, tmp_path / "one", precision="fp32")
    apart, _, one = features(folder, tmp_path / "one", precision="fp32", **options)  # the other views alone
    together, _, other = features(folder, tmp_path / "other", precision="fp32", **options)
    assert np.array_equal(apart, together)
    manifest = load_manifest(DataConfig(str(folder)))
    for tap_of_one, tap_of_other in zip(one.taps, other.taps, strict=True):
        for view in range(one.cached_views):
            rows = [tap.cache_of_view(view).read(manifest.keys, view) for tap in (tap_of_one, tap_of_other)]
            assert np.array_equal(*rows)


@pytest.mark.parametrize(("device", "deterministic"), [("auto", True), ("auto", False), ("cpu", True)])
def test_deterministic_kernels_are_taken_on_a_gpu_alone_where_asked_for(
    pretended_cuda, tmp_path, monkeypatch, device, deterministic
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        build_extractor(
            FeatureConfig(weights="none", image_size=32, cache=tmp_path, device=device, deterministic=deterministic)
        )
        taken = device == "auto" and deterministic
        assert torch.are_deterministic_algorithms_enabled() == taken
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == taken
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_kernels_give_the_same_bits_each_time(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    folder = make_folder(tmp_path / "images", per_class=6)
    try:
        rows = [features(folder, tmp_path / name, deterministic=True)[0] for name in "ab"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert np.array_equal(*rows)


def test_what_torch_does_not_compute_deterministically_is_said_in_words(pretended_cuda, files, tmp_path):
    extractor = build_extractor(FeatureConfig(weights="none", image_size=32, cache=tmp_path))
    requests = [plain(file) for file in files[:4]]

    def counts(images):
        return [torch.histc(images[:, :1].float(), 4)[None].expand(len(images), -1)]

    assert len([*extractor.run_batches(requests, counts, 1)]) == 1
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UsageError, match=r"`deterministic`: .* for histc_cuda: leave the option out"):
            list(extractor.run_batches(requests, counts, 1))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="torch compiles with the help of a compiler for C"
)
def test_a_trunk_that_is_compiled_gives_the_rows_of_one_that_is_not(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=6)
    options = {"backbone": "resnet18", "precision": "bf16", "extract_batch_size": 8}
    expected, *_ = features(folder, tmp_path / "cache", **options)
    rows, report, extractor = features(folder, tmp_path / "cache", compile_trunk=True, **options)
    assert report.extracted == 18
    assert extractor.arithmetic == "bf16-folded-compiled"
    assert np.corrcoef(rows.ravel().astype(float), expected.ravel().astype(float))[0, 1] > 0.999


def test_a_gpu_that_is_lost_is_said_in_words_and_the_same_command_goes_on(pretended_cuda, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "images", per_class=12)
    options = FeatureConfig(
        weights="none", image_size=64, cache=tmp_path / "cache", precision="fp32", extract_batch_size=4
    )
    manifest, extractor = load_manifest(DataConfig(str(folder))), build_extractor(options)
    replay = CUDAGraph.replay

    def lost_in_the_middle(graph):
        pretended_cuda.lost = graph.replays >= 6
        replay(graph)

    with monkeypatch.context() as patched:
        patched.setattr(CUDAGraph, "replay", lost_in_the_middle)
        with pytest.raises(CutonceError, match=r"cuda answers no more .*: what is written stays, and the same command"):
            extract(extractor, manifest, shard_bytes=1)
    pretended_cuda.lost = False
    again = build_extractor(options)
    kept = len(again.taps[0].cache)
    assert kept > 0
    assert extract(again, manifest).extracted == 36 - kept
    expected, *_ = features(folder, tmp_path / "other", precision="fp32", extract_batch_size=4)
    assert np.array_equal(read_features(again, manifest), expected)

"""The engine of a GPU, with a CPU as the device: who decodes what, order, failures, and the same rows in any case."""

import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import CutonceError, UsageError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.image_stream import EvaluationViews, ImageRequest
from stages.data.images.codecs import torchcodec_decoders
from stages.data.images.preprocessing import Preprocessing, stack_pixels
from stages.data.images.reading import Reading
from stages.data.manifest import load_manifest
from stages.extraction.engine import on_cores
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.gpu_engine import on_gpu
from stages.extraction.read_features import read_features
from tests.photographs import make_folder, photograph

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
    return ImageRequest(file, PREPROCESSING.render, READING, evaluation=EvaluationViews(PREPROCESSING))


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
    assert sum(on_device) == 31  # of 60 half are baseline, progressive or grey, and one is turned
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
        ImageRequest(
            file, PREPROCESSING.render, READING, remark, EvaluationViews(PREPROCESSING) if number % 2 else None
        )
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
        ImageRequest(str(file), preprocessing.render, READING, evaluation=EvaluationViews(preprocessing))
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


def test_what_computing_raises_ends_it(files):
    def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(map(plain, files), compute=fails)


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


@pytest.mark.parametrize("options", [{}, {"taps": "stages", "pool": "avg,max"}, {"augment": "light", "views": 2}])
def test_extraction_on_a_gpu_gives_the_rows_of_a_cpu(pretended_cuda, tmp_path, options):
    folder = make_folder(tmp_path / "images", per_class=12)
    rows, report, extractor = features(folder, tmp_path / "cache", precision="fp32", **options)
    assert extractor.reading.decoder == "pixels+nvjpeg/2"
    assert extractor.device.type == "cuda"
    assert set(report.shares) >= {"read", "decode", "forward", "copy", "interpreter", "write"}
    expected, _, laptop = features(folder, tmp_path / "cache", device="cpu", **options)
    assert laptop.reading.decoder == "pixels/2"
    assert laptop.trunk.precision == "fp32"
    assert report.fingerprints != [tap.cache.spec.fingerprint for tap in laptop.taps]
    assert np.corrcoef(rows.ravel().astype(float), expected.ravel().astype(float))[0, 1] > 0.999


def test_a_gpu_computes_in_what_is_quickest_unless_told_otherwise(pretended_cuda, tmp_path):
    def precision(**options):
        return build_extractor(FeatureConfig(weights="none", image_size=32, cache=tmp_path, **options)).trunk.precision

    assert (precision(), precision(precision="tf32"), precision(device="cpu")) == ("bf16", "tf32", "fp32")
    pretended_cuda.bf16 = False
    assert (precision(), precision(precision="auto"), precision(precision="fp32")) == ("fp16", "fp16", "fp32")
    for name in ("bf16", "tf32"):
        with pytest.raises(UsageError, match=f"`precision` {name}.*Ampere"):
            precision(precision=name)


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


def test_the_evaluation_view_is_the_same_whatever_comes_after_it(files):
    """With its mirror image, with the mirror image alone, and with views that are rendered image by image."""

    def others(image):
        return stack_pixels([255 - PREPROCESSING.render(image), PREPROCESSING.render(image) // 2])

    def rows(mirrored, rest=None, renderings=1):
        def every(image):
            view = PREPROCESSING.render(image)
            looks = [view.flip(-1) if mirror else view for mirror in mirrored]
            return stack_pixels([*looks, *([] if rest is None else rest(image))])

        views = EvaluationViews(PREPROCESSING, mirrored, rest)
        (_, pixels), indices, _ = outcome(
            run([ImageRequest(file, every, READING, None, views, renderings) for file in files], renderings=renderings)
        )
        return pixels.reshape(-1, renderings, *pixels.shape[1:]), indices[::renderings]

    (_, alone), indices, _ = outcome(run(map(plain, files)))
    both, indices_of_both = rows((False, True), renderings=2)
    mirror, _ = rows((True,))
    several, _ = rows((False,), others, renderings=3)
    assert indices_of_both == indices
    assert np.array_equal(both[:, 0], alone)
    assert np.array_equal(several[:, 0], alone)
    assert np.array_equal(both[:, 1], alone[..., ::-1])
    assert np.array_equal(mirror[:, 0], alone[..., ::-1])
    np.testing.assert_allclose(several[:, 1], 255 - alone, atol=2)
    np.testing.assert_allclose(several[:, 2], alone // 2, atol=2)


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


def test_a_gpu_that_is_lost_is_said_in_words_and_the_same_command_goes_on(pretended_cuda, tmp_path):
    folder = make_folder(tmp_path / "images", per_class=12)
    options = FeatureConfig(
        weights="none", image_size=64, cache=tmp_path / "cache", precision="fp32", extract_batch_size=4
    )
    manifest, extractor = load_manifest(DataConfig(str(folder))), build_extractor(options)
    trunk, calls = extractor.trunk.forward, []

    def lost_in_the_middle(images):
        calls.append(len(images))
        pretended_cuda.lost = len(calls) > 6
        return trunk(images)

    extractor.trunk.forward = lost_in_the_middle
    with pytest.raises(CutonceError, match=r"cuda answers no more .*: what is written stays, and the same command"):
        extract(extractor, manifest, shard_bytes=1)
    pretended_cuda.lost = False
    again = build_extractor(options)
    kept = len(again.taps[0].cache)
    assert kept > 0
    assert extract(again, manifest).extracted == 36 - kept
    expected, *_ = features(folder, tmp_path / "other", precision="fp32", extract_batch_size=4)
    assert np.array_equal(read_features(again, manifest), expected)

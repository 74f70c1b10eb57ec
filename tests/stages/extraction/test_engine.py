"""Requested images through a function of images, on a CPU: order, failures, batches, threads."""

import mmap
import os
import threading
import time

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.registry import ENGINES
from stages.data.image_stream import ImageRequest
from stages.data.sources.open_image import read_image
from stages.extraction.engine import get_engine, on_accelerator, on_cores, register_engine
from stages.extraction.gpu_engine import on_gpu
from tests.photographs import photograph
from tests.plug_ins import forget_afterwards

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(23):
        photograph((10 * number, 90, 200), number, side=32).save(folder / f"{number:02}.jpg", quality=95)
    return [str(folder / f"{number:02}.jpg") for number in range(23)]


def requests_of(files, render=lambda image: image):
    return [ImageRequest(file, render) for file in files]


def mean_colors(images):
    return [images.float().mean((2, 3))]


def expected(files):
    return np.stack([read_image(file).float().mean((1, 2)).numpy() for file in files])


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (4, 3), (7, 2), (64, 2)])
def test_rows_come_in_the_order_of_the_requests_whatever_computes_them(files, batch_size, threads):
    batches = list(on_cores(requests_of(files), mean_colors, CPU, batch_size, threads))
    assert [index for batch in batches for index in batch.indices] == list(range(23))
    assert batches[-1].finished == 23
    assert np.allclose(np.concatenate([batch.rows[0] for batch in batches]), expected(files), atol=1e-4)


def test_several_renderings_of_an_image_follow_each_other_in_batches_that_are_never_too_large(files):
    sizes = []

    def compute(images):
        sizes.append(len(images))
        return [images.float().mean((2, 3)), torch.zeros(len(images), 2, 3)]

    def render(image):
        return torch.stack([image, image // 2, image // 4])

    batches = list(on_cores(requests_of(files, render), compute, CPU, 8, 2, renderings=3))
    assert [index for batch in batches for index in batch.indices] == [index for index in range(23) for _ in range(3)]
    assert max(sizes) == 8
    assert sizes.count(8) >= 8  # of 69 renderings no more than the last ones are in smaller batches
    rows = np.concatenate([batch.rows[0] for batch in batches]).reshape(23, 3, 3)
    assert np.allclose(rows[:, 0], expected(files), atol=1e-4)
    assert np.allclose(rows[:, 2], rows[:, 0] / 4, atol=1.0)
    assert np.concatenate([batch.rows[1] for batch in batches]).shape == (69, 2, 3)


def test_what_cannot_be_read_is_carried_with_its_reason_and_ends_nothing(files, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    wanted = [*files[:3], str(tmp_path / "bad.jpg"), str(tmp_path / "nowhere.jpg"), "digits:3", *files[3:5]]
    render = torch.nn.functional.interpolate
    requests = requests_of(wanted, lambda image: render(image[None].float(), (32, 32))[0].to(torch.uint8))
    batches = list(on_cores(requests, mean_colors, CPU, 3, 2))
    assert [index for batch in batches for index in batch.indices] == [0, 1, 2, 5, 6, 7]
    assert [index for batch in batches for index, _ in batch.failures] == [3, 4]
    assert "no such file" in dict(pair for batch in batches for pair in batch.failures)[4]


def test_a_part_without_a_readable_image_has_no_rows(tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    (batch,) = on_cores(requests_of([str(tmp_path / "bad.jpg")] * 2), mean_colors, CPU, 4, 1)
    assert (batch.indices, batch.rows, batch.finished, len(batch.failures)) == ([], [], 2, 2)


def test_requests_are_asked_for_no_sooner_than_needed(files):
    asked = []

    def coming():
        for number, request in enumerate(requests_of(files * 10)):
            asked.append(number)
            yield request

    rows = on_cores(coming(), mean_colors, CPU, 4, 2)
    next(rows)
    assert len(asked) <= 4 * 2 * 2 + 4
    rows.close()


def test_threads_compute_alone_and_end_with_the_iteration_however_it_ends(files):
    thread_counts = []

    def compute(images):
        thread_counts.append(torch.get_num_threads())
        if len(thread_counts) == 3:
            raise RuntimeError("the network is broken")
        return mean_colors(images)

    with pytest.raises(RuntimeError, match="broken"):
        list(on_cores(requests_of(files), compute, CPU, 4, 2))
    assert set(thread_counts) == {1}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compute")]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot be told what will be read")
def test_a_file_is_fetched_from_the_disk_before_it_is_its_turn(files, tmp_path):
    """While the first image is rendered, the system reads the last: its pages are in memory before anyone opens it."""
    last = tmp_path / "last.jpg"
    photograph((1, 2, 3), 99, side=400).save(last, quality=100)
    descriptor = os.open(last, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(descriptor):
        pytest.skip("this file system keeps its files in memory")
    is_resident = []

    def render(image):
        if not is_resident:
            deadline = time.monotonic() + 10
            while not resident(descriptor) and time.monotonic() < deadline:
                time.sleep(0.01)
            is_resident.append(resident(descriptor))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    list(on_cores(requests_of([files[0], str(last)], render), mean_colors, CPU, 1, 1))
    os.close(descriptor)
    assert is_resident == [True]


def resident(descriptor):
    """Whether the last page of a file is in memory; asked of the C library, which Python does not wrap."""
    import ctypes

    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-size // mmap.PAGESIZE)
        state = (ctypes.c_ubyte * pages)()
        buffer = (ctypes.c_char * size).from_buffer(mapped)
        status = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(buffer), ctypes.c_size_t(size), state)
        del buffer
        assert status == 0
        return bool(state[pages - 1] & 1)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_engine_gives_the_same_rows_and_failures(files, tmp_path, batch_size):
    (tmp_path / "bad.jpg").write_text("no image")
    requests = requests_of([*files[:9], str(tmp_path / "bad.jpg"), *files[9:]])
    outcomes = []
    for engine in (on_cores, on_accelerator):
        batches = list(engine(requests, mean_colors, CPU, batch_size, 2, 1))
        assert batches[-1].finished == 24
        rows = np.concatenate([batch.rows[0] for batch in batches if batch.rows])
        failures = [failure for batch in batches for failure in batch.failures]
        outcomes.append((rows, [index for batch in batches for index in batch.indices], failures))
    (rows, indices, failures), (other_rows, other_indices, other_failures) = outcomes
    np.testing.assert_allclose(rows, other_rows, atol=1e-4)
    assert (indices, failures) == (other_indices, other_failures)


def test_an_engine_that_names_the_device_comes_before_one_that_takes_any(monkeypatch):
    forget_afterwards(monkeypatch, ENGINES)
    assert get_engine("auto", CPU) is on_cores
    assert get_engine("auto", torch.device("cuda")) is on_gpu
    assert get_engine("auto", torch.device("mps")) is on_accelerator

    @register_engine("for-xpu", devices=("xpu",))
    def for_xpu(*_):
        """For one kind of device."""

    @register_engine("asked-for", devices=("cpu",), automatic=False)
    def asked_for(*_):
        """Never chosen by itself."""

    assert get_engine("auto", torch.device("xpu")) is for_xpu
    assert get_engine("auto", torch.device("mps")) is on_accelerator
    assert get_engine("auto", CPU) is on_cores
    assert get_engine("asked-for", CPU) is asked_for
    register_engine("another", devices=("cuda",))(lambda *_: None)
    with pytest.raises(UsageError, match="`engine` auto: gpu and another both compute on cuda; name one of them"):
        get_engine("auto", torch.device("cuda"))


def test_an_engine_that_does_not_suit_is_refused():
    with pytest.raises(UsageError, match="`engine` cores computes on cpu, and the `device` is cuda; use `engine` auto"):
        get_engine("cores", torch.device("cuda"))
    with pytest.raises(
        UsageError,
        match=r"`engine` core: .*no such engine\. Did you mean .cores.\? There are cores, openvino, accelerator, gpu, and auto\.",
    ):
        FeatureConfig(engine="core")

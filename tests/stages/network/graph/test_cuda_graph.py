"""A computation recorded on a GPU; where none is, or it cannot be recorded, the computation as it is."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stages.network.graph import cuda_graph
from stages.network.graph.cuda_graph import CudaGraph


@pytest.mark.usefixtures("pretended_cuda")
def test_what_cannot_be_recorded_is_computed_as_it_is_and_that_is_said_once(caplog, monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuses)
    caplog.set_level(logging.INFO, "cutonce")
    calls = []

    def function(images):
        calls.append(len(images))
        return [images + 1, images.sum(1)]

    graph = CudaGraph(function)
    images = torch.arange(6.0).view(2, 3)
    for _ in range(3):
        rows, sums = graph(images.cuda())
        assert torch.equal(rows.cpu(), images + 1)
        assert torch.equal(sums.cpu(), images.sum(1))
    assert calls == [2] * (3 + 3)  # three to warm up, in vain
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the network cannot be recorded as a CUDA graph, and is launched as it is"
    ]


WAITING = {
    "item": lambda images: [images * images.max().item()],
    "a condition": lambda images: [images * 5 if images.sum() > 0 else images],
    "a list": lambda images: [images * max(images.flatten().tolist())],
    "what a mask chooses": lambda images: [images * images[images == images.max()]],
    "places": lambda images: [images * images.nonzero().shape[0]],
    "a copy to the CPU": lambda images: [images * images.cpu().amax().to(images.device)],
    "numbers brought to the GPU": lambda images: [images * torch.tensor([5.0], device=images.device)],
    "pinned numbers": lambda images: [images * torch.tensor([5.0]).pin_memory().to(images.device, non_blocking=True)],
    "an index of the CPU's": lambda images: [images * images[torch.tensor([1])][:, torch.tensor([2])]],
}


@pytest.mark.parametrize("device", ["pretended", pytest.param("real", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("way", WAITING)
def test_what_waits_for_the_gpu_is_never_begun_to_be_recorded(request, monkeypatch, caplog, way, device):
    """A recording that fails would leave torch's allocator as if it still went on, which the pretended device notes."""
    if device == "pretended":
        request.getfixturevalue("pretended_cuda")
    recordings = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda *_, **__: recordings.append(way))
    caplog.set_level(logging.INFO, "cutonce")
    stream = torch.cuda.current_stream()
    graph = CudaGraph(WAITING[way])
    images = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        (rows,) = graph(images.cuda())
        assert torch.equal(rows.cpu(), images * 5)
        assert torch.cuda.current_stream() == stream
    assert recordings == []
    assert len(caplog.records) == 1
    assert "waits for the GPU, or copies between it and the processor" in caplog.text


def test_what_fails_all_the_same_is_launched_as_it_is_on_the_stream_of_before(pretended_cuda, caplog):
    """What waits where no operator tells of it."""
    caplog.set_level(logging.INFO, "cutonce")
    stream = torch.cuda.current_stream()

    def function(images):
        torch.cuda.synchronize()
        return [images * 5]

    graph = CudaGraph(function)
    images = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        (rows,) = graph(images.cuda())
        assert torch.equal(rows.cpu(), images * 5)
        assert torch.cuda.current_stream() is stream
    assert pretended_cuda.graphs == []
    assert len(caplog.records) == 1
    assert "a recording has failed" in pretended_cuda.faults.pop()


def test_operators_are_looked_at_in_inference_mode_too(monkeypatch):
    """There nobody has taken composed operators apart; the pretended device has no such mode."""
    seen = []
    monkeypatch.setattr(cuda_graph, "_waits", lambda func, *_: seen.append(func.overloadpacket.__name__))
    values = torch.arange(4.0)
    with torch.inference_mode(), cuda_graph._WithoutWaiting():
        (
            bool(values.sum() > 3),
            values.tolist(),
            torch.nn.functional.linear(values[None], torch.ones(2, 4), torch.ones(2)),
        )
    assert {"_local_scalar_dense", "addmm"} <= set(seen)
    assert not {"item", "linear", "is_nonzero"} & set(seen)


def test_what_is_brought_to_the_gpu_once_is_no_waiting(pretended_cuda):
    brought = {}

    def function(images):
        if not brought:
            brought["factor"] = torch.tensor([5.0]).to(images.device)
        return [images * brought["factor"]]

    graph = CudaGraph(function)
    images = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        (rows,) = graph(images.cuda())
        assert torch.equal(rows.cpu(), images * 5)
    assert [recorded.replays for recorded in pretended_cuda.graphs] == [2]


@pytest.mark.parametrize("streams", ["one stream", "a stream each"])
def test_threads_that_share_what_is_recorded_have_their_own_rows(gpu, streams):
    """As those of a server do, which ask for features of one network at once."""
    graph = CudaGraph(lambda images: [images * 2, images.sum(1)])

    def ask(number):
        with torch.cuda.stream(torch.cuda.Stream() if streams == "a stream each" else None):
            rows, sums = graph(torch.full((2, 3), float(number)).cuda())
            torch.cuda.current_stream().synchronize()
            return rows.cpu().unique().tolist() + sums.cpu().unique().tolist()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(100)))
    assert found == [[2.0 * number, 3.0 * number] for number in range(100)]
    assert [recorded.replays for recorded in gpu.graphs] == [100]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("full"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),  # of cuDNN
    ],
)
def test_no_room_is_told_and_not_taken_for_what_cannot_be_recorded(monkeypatch, error):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: (_ for _ in ()).throw(error))
    graph = CudaGraph(lambda images: [images])
    for _ in range(2):
        with pytest.raises(RuntimeError, match=re.escape(str(error))):
            graph(torch.zeros(2))


@pytest.mark.parametrize("device", ["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def test_what_is_recorded_gives_what_is_computed_for_any_images_and_shape(device, request):
    if device == "pretended":
        request.getfixturevalue("pretended_cuda")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten()).cuda()
    calls = []

    def function(images):
        calls.append(len(images))
        return [network(images / 255)]

    graph = CudaGraph(function)
    for count in (4, 4, 4, 2, 2):
        images = torch.randint(0, 256, (count, 3, 8, 8), device="cuda").float()
        first, second = graph(images), graph(images.flip(0))
        with torch.inference_mode():
            torch.testing.assert_close(first[0], network(images / 255))
            torch.testing.assert_close(second[0], network(images.flip(0) / 255))
    assert len(calls) == 2 * 4  # three to warm up and one that is recorded, of each shape

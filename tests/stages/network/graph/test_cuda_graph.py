"""A computation recorded on a GPU; where none is, or it cannot be recorded, the computation as it is."""

import logging

import pytest
import torch

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


def test_what_waits_for_the_gpu_is_launched_as_it_is_on_the_stream_of_before(pretended_cuda, caplog):
    caplog.set_level(logging.INFO, "cutonce")
    stream = torch.cuda.current_stream()
    graph = CudaGraph(lambda images: [images * images.max().item()])
    images = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        (rows,) = graph(images.cuda())
        assert torch.equal(rows.cpu(), images * 5)
        assert torch.cuda.current_stream() is stream
    assert pretended_cuda.graphs == []
    assert len(caplog.records) == 1


def test_no_room_is_told_and_not_taken_for_what_cannot_be_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    graph = CudaGraph(lambda images: [images])
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
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

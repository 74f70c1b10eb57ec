"""Streams that are handed out in turn are nobody's twice."""

import pytest
import torch

from stages.runtime import own_streams
from stages.runtime.own_streams import own_stream

CUDA = torch.device("cuda")


class Stream:
    """One of four, as torch hands them out: in turn, whoever still has them."""

    given = 0

    def __init__(self, _device):
        self.cuda_stream = 1000 + Stream.given % 4
        Stream.given += 1


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(own_streams, "_POOL", 4)


@pytest.mark.usefixtures("few")
def test_a_stream_that_somebody_holds_is_given_to_nobody_else():
    held = [own_stream(CUDA) for _ in range(3)]
    for _ in range(5):
        assert own_stream(CUDA).cuda_stream not in {stream.cuda_stream for stream in held}
    last = own_stream(CUDA)
    assert len({stream.cuda_stream for stream in (*held, last)}) == 4
    assert own_stream(CUDA).cuda_stream in range(1000, 1004)  # where all are taken, any of them
    released = held.pop().cuda_stream
    assert own_stream(CUDA).cuda_stream == released


@pytest.mark.gpu
def test_those_of_torch_are_told_apart():
    held = [own_stream(CUDA) for _ in range(20)]
    assert len({stream.cuda_stream for stream in (*held, *(own_stream(CUDA) for _ in range(10)))}) > 20
    for _ in range(40):
        assert own_stream(CUDA).cuda_stream not in {stream.cuda_stream for stream in held}

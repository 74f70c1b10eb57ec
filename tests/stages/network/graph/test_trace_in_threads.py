"""torch.fx replaces the call of every module while it traces; other threads must not notice."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from stages.network.graph.trace import Trace


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(20)])
        self.scale = nn.Parameter(torch.ones(1))
        self.classifier = nn.Linear(3, 5)

    def forward(self, x):
        return self.classifier((self.features(x) * self.scale).mean((2, 3)))


def test_networks_are_traced_and_run_at_the_same_time():
    call, get = nn.Module.__call__, nn.Module.__getattr__
    running, images = Network().eval(), torch.rand(1, 3, 16, 16)
    expected = running(images)
    finished = threading.Event()

    def compute():
        while not finished.is_set():
            assert torch.equal(running(images), expected)

    with ThreadPoolExecutor(4) as threads:
        computing = [threads.submit(compute) for _ in range(2)]
        traces = [threads.submit(Trace, Network(), 16, training=False) for _ in range(6)]
        names = [list(trace.result().by_name) for trace in traces]
        finished.set()
        for future in computing:
            future.result()
    assert all(name == names[0] for name in names)
    assert (nn.Module.__call__, nn.Module.__getattr__) == (call, get)

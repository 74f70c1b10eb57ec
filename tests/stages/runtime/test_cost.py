import mmap
import subprocess
import sys
import time

import pytest
import torch

from stages.runtime.cost import measured


def test_wall_and_processor_time_are_told_apart(monkeypatch):
    # a worker of tests may have many children to look at
    monkeypatch.setattr("stages.runtime.cost._resident_bytes", lambda process: 0)
    with measured() as told:
        time.sleep(0.3)
    assert 0.3 <= told.seconds < 2
    assert told.cpu_seconds < 0.2


def test_the_peak_is_seen_although_the_memory_is_given_back():
    with measured() as small:
        time.sleep(0.15)
    with measured() as large:
        block = mmap.mmap(-1, 300_000_000)  # new memory, not what the process has been keeping since earlier work
        block.write(b"x" * len(block))
        time.sleep(0.25)
        block.close()
        time.sleep(0.15)
    assert large.peak_memory_bytes - small.peak_memory_bytes > 250_000_000


def test_memory_and_time_of_child_processes_count():
    script = (
        "import time; block = b'x' * 200_000_000; t = time.process_time()\nwhile time.process_time() - t < 0.5: pass"
    )
    with measured() as alone:
        time.sleep(0.15)
    with measured() as cost:
        subprocess.run([sys.executable, "-c", script], check=True)
    assert cost.cpu_seconds > 0.45
    assert cost.peak_memory_bytes - alone.peak_memory_bytes > 150_000_000


def test_the_cost_is_filled_although_the_work_failed():
    with pytest.raises(ZeroDivisionError), measured() as cost:
        1 / 0  # noqa: B018
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 1_000_000


def test_memory_of_every_gpu_in_use_counts_and_none_is_begun_with(monkeypatch):
    reset = []
    monkeypatch.setattr("stages.runtime.cost._resident_bytes", lambda process: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: reset.append(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: [0, 7, 20][device])
    with measured() as cost:
        pass
    assert (cost.peak_memory_bytes, reset) == (0, [])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with measured() as cost:
        pass
    assert (cost.peak_memory_bytes, reset) == (27, [0, 1, 2])

import subprocess
import sys

import pytest
import torch

from cache.errors import UsageError
from stages.runtime.device import resolve_device
from stages.runtime.distributed import Rank
from stages.runtime.environment import describe_machine
from stages.runtime.threads import single_thread_pool, single_threaded


def test_auto_takes_the_best_device_there_is():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == best
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_cuda_then_apples_gpu_then_the_processor(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto").type == best
    several = Rank(1, 2, 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert several.device("auto") == ("cuda:1" if cuda else "cpu")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match="`device`"):
        resolve_device(name)


def test_one_thread_inside_and_as_many_as_before_after():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), single_threaded():
        assert torch.get_num_threads() == 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc's malloc")
def test_freed_activations_are_kept_and_not_faulted_in_again():
    """Minor page faults of the same forward passes, each in a process of its own."""
    script = """
import resource, sys
from stages.runtime.openmp import configure_openmp
configure_openmp()
import torch
from stages.runtime.allocator import tune_malloc
if sys.argv[1] == "keep":
    assert tune_malloc()
layer, x = torch.nn.Conv2d(16, 64, 3, padding=1), torch.rand(8, 16, 112, 112)
with torch.inference_mode():
    for _ in range(3): layer(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8): layer(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", script, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] * 5 < faults["default"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc's malloc")
def test_a_process_that_goes_on_holds_no_memory_that_a_large_job_of_the_library_has_freed():
    """Megabytes that there still are to be given back after a call, in a process of its own."""
    script = """
import ctypes, os
import numpy as np
from pipeline import TransferClassifier, features
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
def still_held():
    before = resident()
    ctypes.CDLL(None).malloc_trim(0)
    return before - resident()
numbers = np.random.default_rng(0)
features(list(numbers.integers(0, 256, (512, 64, 64, 3), dtype=np.uint8)), image_size=224)
print(still_held())
rows = numbers.normal(size=(3000, 1500)).astype(np.float32)
TransferClassifier("ridge", c_values=(1e-3,)).fit(rows, np.arange(3000) % 4)
print(still_held())
"""
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    after_features, after_fit = map(float, ended.stdout.split())
    assert after_features < 100
    assert after_fit < 100


def test_the_description_names_what_is_needed_to_repeat_a_run():
    described = describe_machine()
    assert described["torch"] == torch.__version__.split("+")[0] or described["torch"] == torch.__version__
    assert {"python", "system", "cpus", "h5py", "scikit-learn", "timm"} <= described.keys()


def test_a_thread_that_computes_alone_goes_on_so_when_another_pool_ends():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_thread_pool(1, "forward") as forward:
            forward.submit(int).result()  # the thread is there, and has not computed yet
            with single_thread_pool(1, "decode") as decode:
                decode.submit(int).result()
            assert forward.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)

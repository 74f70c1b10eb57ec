"""Statistics over places in one reading: right for odd numbers, too, and there whatever the folder of what is compiled."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from stages.network.graph.pooling_kernels import compiled_kernel

DTYPES = [torch.float32, torch.bfloat16]


def pooled(x):
    """Average, maximum and deviation of [b, N, C]."""
    stored = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    rows = [np.full((len(x), x.shape[2]), 7, np.float32) for _ in range(3)]
    compiled_kernel(x.dtype)(stored, *rows)
    return [torch.from_numpy(row) for row in rows]


def drawn(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 49, 3136])
@pytest.mark.parametrize("channels", [1, 5, 32, 100])
def test_they_are_those_of_the_definition(dtype, count, channels):
    x = drawn(3, count, channels, dtype=dtype)
    average, maximum, deviation = pooled(x)
    assert torch.equal(maximum, x.float().amax(1))
    torch.testing.assert_close(average.double(), x.double().mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(deviation.double(), x.double().std(1, correction=0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_has_the_same_bits_alone_and_beside_others(dtype):
    x = drawn(5, 49, 33, dtype=dtype)
    alone = [pooled(image[None]) for image in x]
    for number, rows in enumerate(pooled(x)):
        assert torch.equal(rows, torch.cat([of_image[number] for of_image in alone]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 3, 8, 20])
def test_what_is_no_number_comes_out_as_torch_gives_it(dtype, place):
    x = drawn(1, 21, 4, dtype=dtype)
    x[0, place, 0] = torch.nan
    x[0, place, 1] = torch.inf
    x[0, place, 2], x[0, (place + 1) % 21, 2] = torch.inf, -torch.inf  # whose sum is no number while the maximum is one
    average, maximum, deviation = pooled(x)
    torch.testing.assert_close(maximum, x.float().amax(1), equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(average, x.float().mean(1), equal_nan=True)
    torch.testing.assert_close(deviation, x.float().std(1, correction=0), equal_nan=True)


def test_small_deviations_far_from_zero_are_right_and_of_equal_numbers_there_is_none():
    noise = drawn(2, 12544, 8, dtype=torch.float64) / 1000
    torch.testing.assert_close(
        pooled((noise + 30).float())[2].double(), (noise + 30).float().double().std(1, correction=0), rtol=1e-3, atol=0
    )
    assert not pooled(torch.full((1, 100, 8), 3.0))[2].any()


LOADED = """
import resource, signal, sys
import torch
from stages.network.graph.pooling_kernels import compiled_kernel
if sys.argv[1] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
print(len(compiled_kernel(torch.float32).stats.cache_hits))
"""


def read_from_disk(folder, disk="sound"):
    """Whether a process finds the kernel compiled in a folder."""
    if sys.platform == "win32":
        pytest.skip("Windows knows no limit of the size of files")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    ended = subprocess.run([sys.executable, "-c", LOADED, disk], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip() == "1"


def test_it_is_compiled_once_and_without_the_folder_that_keeps_it(tmp_path):
    folder = tmp_path / "kept"
    assert not read_from_disk(folder, "full")
    assert not read_from_disk(folder)
    assert read_from_disk(folder)
    for damaged in (b"\x80garbage", b""):
        for file in folder.rglob("*.nb*"):
            file.write_bytes(damaged)
        assert not read_from_disk(folder)

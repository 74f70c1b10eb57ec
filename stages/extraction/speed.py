"""How many images a network takes in a second on this machine, without any being read."""

from __future__ import annotations

import time

import torch

from stages.data.images.preprocessing import stack_pixels
from stages.extraction.extractor import Extractor
from stages.runtime.threads import single_thread_pool


def images_per_second(extractor: Extractor, seconds: float = 1.0) -> float:
    """Return the rate at which the trunk takes rendered images, on all cores or the accelerator.

    Parameters
    ----------
    extractor : Extractor
        Of a network with any weights: they change nothing of it.
    seconds : float
        How long it is measured at least, after a first batch for each thread.
    """
    preprocessing = extractor.backbone.preprocessing
    size = (len(preprocessing.mean), *preprocessing.shape)
    image = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = stack_pixels([image] * extractor.batch_size)
    threads = extractor.threads if extractor.device.type == "cpu" else 1
    with single_thread_pool(threads, "forward") as pool:
        list(pool.map(extractor.forward_rows, [batch] * threads))
        _finish(extractor)
        started = time.perf_counter()
        done = 0
        while time.perf_counter() - started < seconds:
            done += len(list(pool.map(extractor.forward_rows, [batch] * threads)))
        _finish(extractor)
        return done * len(batch) / (time.perf_counter() - started)


def _finish(extractor: Extractor) -> None:
    if extractor.device.type == "cuda":
        torch.cuda.synchronize(extractor.device)

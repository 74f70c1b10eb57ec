"""What is done with cutonce, for the same results.

Each function is run by `measurement.measure` in a process of its own, in an empty folder, so that the feature cache in
its default place is empty too.
"""

from __future__ import annotations

from stages.runtime.openmp import configure_openmp

configure_openmp()  # before torch is imported

# isort: split

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.frozen_training import BATCH_SIZE, new_head, order, train
from benchmarks.measurement import FEATURES, Measurement, measuring
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor, build_extractor
from stages.extraction.read_features import read_features
from stages.runtime.device import resolve_device
from stages.runtime.environment import describe_machine
from stages.runtime.threads import single_thread_pool, usable_cores


def extract_features(images: str, warm: bool = False, **options: Any) -> Measurement:
    """Extract the features of a folder into the cache, and save them, once the clock has stopped, row by row.

    With `warm`, a batch or two of every thread go through the trunk before the clock starts.
    """
    extractor = build_extractor(FeatureConfig(**options))
    if warm:
        _warm(extractor)
    with measuring(_count(images)) as measurement:
        manifest = load_manifest(DataConfig(images))
        extract(extractor, manifest)
    np.save(FEATURES, read_features(extractor, manifest))
    return measurement


def extraction(images: str, few: str, **options: Any) -> Measurement:
    """Take the time from the folder to a complete cache: keys, damage checks and the cache's files included.

    What is made ready once (kernels, the decoder, pools of memory) is made ready by another folder of `few` images
    before the clock starts. In the details is how busy each stage was while images were computed, and what share of the
    time went by before, with keys and splits (``manifest``).
    """
    extractor = build_extractor(FeatureConfig(**options))
    extract(extractor, load_manifest(DataConfig(few)))
    with measuring(_count(images)) as measurement:
        started = time.perf_counter()
        manifest = load_manifest(DataConfig(images))
        listed = time.perf_counter() - started
        report = extract(extractor, manifest)
    assert report.extracted == measurement.images, f"{report.extracted} of {measurement.images} images were computed"
    measurement.details = {"manifest": listed / measurement.seconds, **report.shares}
    return measurement


def limits(images: str, networks: list[dict[str, str]], count: int, **options: Any) -> dict[str, float]:
    """Take the time of decoding alone and of each network alone, on what lies ready in memory.

    Returns
    -------
    dict
        Images per second: ``decode``, of JPEG by the decoder of the device (on a CPU: of one core, times the cores),
        and by the names of the networks, from normalised images on the device to rows on it.
    """
    device = resolve_device(options.get("device", "auto"))
    files = [torch.frombuffer(bytearray(Path(file).read_bytes()), dtype=torch.uint8) for file in _files(images)[:count]]
    rates = {"decode": _decoding(files, device)}
    for named in networks:
        extractor = build_extractor(FeatureConfig(**named, **options))
        blank = torch.randint(256, (extractor.batch_size, 3, *extractor.image_shape), dtype=torch.uint8)
        batch = extractor.preprocess(blank)
        times = max(1, count // len(batch))
        for turn in ("to get ready", "measured"):
            with measuring(times * len(batch)) as measurement:
                for _ in range(times if turn == "measured" else 2):
                    extractor.forward_features(batch)
                _finish(device)
        rates[named["backbone"]] = measurement.rate
    return rates


def _decoding(files: list[Tensor], device: torch.device) -> float:
    """Return images per second of TorchCodec's decoder of the device, in calls of 64 MB of files at most."""
    from torchcodec.decoders import decode_jpeg

    step = max(1, min(256, (64 << 20) // max(len(file) for file in files)))
    parts = [files[start : start + step] for start in range(0, len(files), step)]
    torch.set_num_threads(1)
    decode_jpeg(parts[0], device=device)
    with measuring(len(files)) as measurement:
        for part in parts:
            decode_jpeg(part, device=device)
        _finish(device)
    return measurement.rate * (usable_cores() if device.type == "cpu" else 1)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trunk(images: str, **options: Any) -> Measurement:
    """Take as many images as the folder has through the trunk alone, on all cores, in batches that are ready."""
    extractor = build_extractor(FeatureConfig(**options))
    files = _files(images)
    render = extractor.backbone.preprocessing.render
    batch = torch.stack([render(read_image(file)) for file in files[: extractor.batch_size]])
    with single_thread_pool(extractor.threads, "forward") as pool:

        def run(times: int) -> None:
            list(pool.map(extractor.forward_rows, [batch] * times))

        run(4)
        times = -(-len(files) // len(batch))
        with measuring(times * len(batch)) as measurement:
            run(times)
    return measurement


def decode(images: str, **options: Any) -> Measurement:
    """Read and render the images of the folder in one thread."""
    render = build_extractor(FeatureConfig(**options)).backbone.preprocessing.render
    torch.set_num_threads(1)
    with measuring(_count(images)) as measurement:
        for file in _files(images):
            render(read_image(file))
    return measurement


def training(images: str, epochs: int, **options: Any) -> Measurement:
    """Extract ``train`` in all its views and ``val`` in the evaluation view, and train the tutorial's head on them.

    Each epoch takes each training image in a view drawn anew.
    """
    extractor = build_extractor(FeatureConfig(**options))
    views = {"train": extractor.options.views, "val": 1}
    with measuring(_count(images)) as measurement:
        manifest = load_manifest(DataConfig(images))
        splits = np.array([Path(location).parent.parent.name for location in manifest.locations])
        samples = {split: manifest.select(np.flatnonzero(splits == split)) for split in views}
        rows = {}
        for split, count in views.items():
            extract(replace(extractor, options=replace(extractor.options, views=count)), samples[split])
            rows_by_view = [read_features(extractor, samples[split], view) for view in range(count)]
            rows[split] = torch.from_numpy(np.stack(rows_by_view))
        extracted = time.perf_counter()
        labels = {split: torch.from_numpy(part.targets) for split, part in samples.items()}
        head = new_head(extractor.row_shape[0], manifest.task.out_features)

        def batches(split: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(epoch)
            for indices in torch.tensor(order(split, epoch, len(labels[split]))).split(BATCH_SIZE):
                view = torch.randint(len(rows[split]), indices.shape, generator=generator)
                yield rows[split][view, indices].float(), labels[split][indices]

        accuracy = train(head, head, batches, epochs)
        on_rows = time.perf_counter() - extracted
    measurement.details = {"validation accuracy": accuracy, "seconds on cached rows": on_rows}
    return measurement


def startup(images: str, **options: Any) -> Measurement:
    """Take the time until the first features are on the disk: to build the extractor, and for a batch of images."""
    started = time.perf_counter()
    extractor = build_extractor(FeatureConfig(**options))
    built = time.perf_counter() - started
    with measuring(_count(images)) as measurement:
        extract(extractor, load_manifest(DataConfig(images)))
    measurement.details = {"build": built, "first batch": measurement.seconds}
    return measurement


def machine() -> dict[str, str]:
    """Return what the measurements are made on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    bf16 = [flag for flag in processor.get("flags", "").split() if "bf16" in flag]
    return {
        "processor": processor.get("model name", "unknown"),
        "bf16 instructions": " ".join(bf16) or "none",
        **describe_machine(),
        "cuda": "yes" if torch.cuda.is_available() else "no",
    }


def _warm(extractor: Extractor) -> None:
    size = extractor.backbone.preprocessing.image_size
    blank = torch.zeros((extractor.batch_size, 3, size, size), dtype=torch.uint8)
    with single_thread_pool(extractor.threads, "forward") as pool:
        list(pool.map(extractor.forward_rows, [blank] * 2 * extractor.threads))


def _files(images: str) -> list[str]:
    return [str(path) for path in sorted(Path(images).rglob("*.*"))]


def _count(images: str) -> int:
    return len(_files(images))

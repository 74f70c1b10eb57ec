import time
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from cache import atomic_write
from cache.errors import DataError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction import engine
from stages.extraction.estimate import estimate
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from tests.photographs import make_folder


@pytest.fixture
def small(tmp_path):
    """On the CPU, whose threads decode as slowly as they are told to."""
    return FeatureConfig(
        device="cpu", image_size=64, cache=tmp_path / "cache", extract_batch_size=4, cut="blocks.4,auto", views=3
    )


DECODING = 0.1
"""Seconds that an image takes by the clock and none of the processor, so that no other process disturbs it."""


@pytest.fixture
def slow_images(monkeypatch):
    render = engine.render

    def slowly(request, remarks):
        time.sleep(DECODING)
        return render(request, remarks)

    monkeypatch.setattr(engine, "render", slowly)


def test_rows_and_bytes_are_those_of_the_extraction_and_nothing_is_left(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    result = estimate(build_extractor(small), manifest)
    assert not small.cache.exists()
    assert not list(small.cache.parent.glob(".*"))
    assert result.limits.keys() == {"decode", "forward", "write"}
    assert (result.images, result.renderings) == (72, 216)
    assert [(tap.shape, tap.rows, tap.size) for tap in result.taps] == [
        ((112,), 216, 216 * (112 * 2 + 48)),
        ((1280,), 216, 216 * (1280 * 2 + 48)),
    ]
    assert result.seconds == pytest.approx(216 / result.per_second)


def test_only_what_is_missing_counts_and_rates_are_told_where_nothing_is(photographs, small, request):
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(build_extractor(replace(small, views=1)), manifest.select(range(60)))
    result = estimate(build_extractor(small), manifest)
    assert (result.images, result.renderings, result.taps[0].rows) == (72, 216 - 60, 216 - 60)
    extract(build_extractor(small), manifest)
    request.getfixturevalue("slow_images")
    extractor = build_extractor(small)
    result = estimate(extractor, manifest)
    assert (result.images, result.renderings, result.seconds, result.taps[0].size) == (0, 0, 0.0, 0)
    most = 3 * extractor.threads / DECODING  # three views of each image that is decoded
    assert most / 5 < result.limits["decode"] < most
    assert most / 10 < result.per_second < 1.5 * most  # timed from the end of the first batches


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_disk_that_is_slower_than_all_else_sets_the_time(photographs, small, monkeypatch, compression):
    sync = atomic_write.sync
    monkeypatch.setattr(atomic_write, "sync", lambda path: (time.sleep(2), sync(path)))  # twice for each shard
    maps = replace(small, views=1, cut="blocks.0", pool="none", image_size=224, compression=compression)
    result = estimate(build_extractor(maps), load_manifest(DataConfig(str(photographs))))
    ((_, shape, _, _),) = (vars(tap).values() for tap in result.taps)
    rows = (16 << 20) // (2 * prod(shape) + 48)
    assert rows / 8 < result.limits["write"] < rows / 4
    assert result.per_second == min(result.limits.values())
    assert result.seconds == pytest.approx(72 / result.limits["write"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that no user can write to")
def test_where_nothing_can_be_written_that_is_told(photographs, small):
    extractor = build_extractor(replace(small, cache=Path("/proc/self/cache")))
    result = estimate(extractor, load_manifest(DataConfig(str(photographs))))
    assert "write" not in result.limits
    assert "the cache cannot be written" in result.not_writable
    assert result.per_second > 0


@pytest.mark.usefixtures("slow_images")
def test_the_estimated_time_is_about_that_of_the_extraction(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    extractor = build_extractor(replace(small, views=1, extract_batch_size=2))
    result = estimate(extractor, manifest)
    assert result.seconds / 2 < extract(extractor, manifest).seconds < 2 * result.seconds
    assert result.limits["decode"] < extractor.threads / DECODING
    assert result.limits["forward"] > result.limits["decode"]  # the network waits for the images


@pytest.mark.usefixtures("slow_images")
def test_a_small_set_is_estimated_too(photographs, small):
    extractor = build_extractor(replace(small, views=1))
    result = estimate(extractor, load_manifest(DataConfig(str(photographs))).select([0, 30, 60]))
    assert result.images == 3
    assert 3 / extractor.threads * DECODING < result.seconds < 3 * 5 * DECODING


def test_without_a_readable_image_there_is_no_estimate(tmp_path, small):
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "bad" / name / f"{index}.jpg").write_text(f"no image {name} {index}")
    with pytest.raises(DataError, match="none of 6"):
        estimate(build_extractor(small), load_manifest(DataConfig(str(tmp_path / "bad"))))


def test_damaged_images_take_no_estimate_from_those_that_can_be_read(tmp_path, small):
    source = DataConfig(str(make_folder(tmp_path / "photographs")))
    extractor = build_extractor(replace(small, views=1, extract_batch_size=2))
    first = extractor.threads * extractor.batch_size  # where others follow these are not timed
    Path(load_manifest(source).distinct_images.locations[first]).write_bytes(b"no image")
    manifest = load_manifest(source).select(range(first + 1))
    assert estimate(extractor, manifest).per_second > 0  # what can be read comes first
    extract(extractor, manifest.select(range(first)))
    result = estimate(extractor, manifest)  # what is missing is damaged
    assert result.images == 1
    assert result.per_second > 0

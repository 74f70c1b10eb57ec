"""What can be wrong or odd with image files, in one data set: the run goes on, and the report is exact."""

import csv
import os
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from tests.stages.data.pictures import encoded, photograph, png_chunk

SIDE = 50_000

NAMES = [b"new\nline", "emoji \N{TULIP}".encode(), b"a,b\"c'd", b"not unicode \xff\xfe", b" space ", b"x" * 247]
"""Names of files, good ones and bad ones, before ``-ok.jpg`` or ``-no.jpg``: the last has then the most bytes there are."""


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> Path:
    """An intact PNG of 50,000 x 50,000 black pixels: a small file, and 7.5 GB as RGB."""
    compressor = zlib.compressobj()
    row = bytes(1 + SIDE // 8)
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)))
        for _ in range(SIDE // 500):
            file.write(png_chunk(b"IDAT", compressor.compress(row * 500)))
        file.write(png_chunk(b"IDAT", compressor.flush()) + png_chunk(b"IEND", b""))
    return path


def good_files() -> dict[str, bytes]:
    """Return files that are odd and show a picture all the same, by name; no two are alike."""
    first, second, third = (photograph(seed=seed) for seed in range(100, 103))
    transparent = photograph(seed=103).convert("P")
    files = {
        "16 bit.png": encoded(Image.fromarray(np.asarray(first.convert("L")).astype(np.uint16) * 257), "PNG"),
        "16 bit.tif": encoded(Image.fromarray(np.asarray(second.convert("L")).astype(np.uint16) * 257), "TIFF"),
        "cmyk.jpg": encoded(third.convert("CMYK"), "JPEG"),
        "palette.png": encoded(transparent, "PNG", transparency=3),
        "animation.gif": encoded(first, "GIF", save_all=True, append_images=[second]),
        "animation.webp": encoded(second, "WEBP", save_all=True, append_images=[third]),
        "really a png.jpg": encoded(first, "PNG"),
    }
    return files | {
        os.fsdecode(name + b"-ok.jpg"): encoded(photograph(seed=seed), "JPEG") for seed, name in enumerate(NAMES)
    }


def make_bad_files(folder: Path, bomb: Path) -> dict[str, str]:
    """Make all that is no image but looks like one; return what the reason says, by name."""
    truncated = [encoded(photograph(seed=seed), "JPEG")[:-200] for seed in range(200, 201 + len(NAMES))]
    cut_off = encoded(photograph(seed=300), "PNG")[:-500]
    contents = {
        "truncated.jpg": (truncated[0], "truncated"),
        "truncated.png": (cut_off, "truncated"),
        "empty.jpg": (b"", "the file is empty"),
        "also empty.png": (b"", "the file is empty"),
        "text.jpg": (b"dear diary, " * 40, "not an image of a known format"),
    }
    contents |= {
        os.fsdecode(name + b"-no.jpg"): (data, "truncated") for name, data in zip(NAMES, truncated[1:], strict=True)
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "bomb.png").hardlink_to(bomb)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.png")
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {
        "bomb.png": "pixels",
        "dangling.jpg": "link to a file that does not exist",
        "pipe.png": "not a regular file",
    }


@pytest.mark.parametrize("source", ["folder", "table"])
def test_a_run_over_bad_images_goes_on_and_lists_exactly_them(source, bomb, tmp_path):
    good = good_files()
    folders = [tmp_path / "data" / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for name, data in list(good.items())[number::2]:
            (folder / name).write_bytes(data)
    reasons = make_bad_files(folders[0], bomb)
    (folders[0] / "folder.png").mkdir()  # in a folder of images a folder is none, so it is not a bad one either
    data = folders[0].parent
    if source == "table":
        reasons |= {"folder.png": "directory", "never there.jpg": "No such file"}
        data = tmp_path / "data" / "table.csv"
        with data.open("w", newline="", errors="surrogateescape") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label"])
            rows.writerows((path, path.parent.name) for folder in folders for path in sorted(folder.iterdir()))
            rows.writerow([folders[0] / "never there.jpg", "a"])

    manifest = load_manifest(DataConfig(str(data)))
    options = FeatureConfig(image_size=32, cache=tmp_path / "cache", extract_batch_size=4)
    report = extract(build_extractor(options), manifest)

    assert (report.samples, report.extracted, report.hits) == (len(good), len(good), 0)
    listed = dict(report.skipped)
    assert sorted(location for location, _ in report.skipped) == sorted(str(folders[0] / name) for name in reasons)
    for name, reason in reasons.items():
        assert re.search(reason, listed[str(folders[0] / name)]), name

    second = extract(build_extractor(options), manifest)
    assert (second.samples, second.extracted, second.hits) == (len(good), 0, len(good))
    assert sorted(second.skipped) == sorted(report.skipped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_to_read_it_is_listed(tmp_path):
    for index in range(8):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(seed=index), "JPEG"))
    path.chmod(0)
    report = extract(
        build_extractor(FeatureConfig(image_size=32, cache=tmp_path / "cache")),
        load_manifest(DataConfig(str(tmp_path / "data"))),
    )
    assert report.extracted == 7
    assert report.skipped == [(str(path), "Permission denied")]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_bomb_is_refused_before_memory_is_taken_for_its_pixels(bomb, tmp_path):
    (tmp_path / "small.png").write_bytes(encoded(photograph(), "PNG"))
    script = textwrap.dedent(
        f"""
        import re
        from pathlib import Path
        from stages.data.images.reading import Reading
        from stages.data.images.rgb import UnreadableImageError
        from stages.data.sources.open_image import read_image

        def peak() -> int:
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

        read_image({str(tmp_path / "small.png")!r})  # what the first image loads is not to be counted
        before = peak()
        for shorter_side in (None, 256):
            try:
                read_image({str(bomb)!r}, Reading(shorter_side=shorter_side))
            except UnreadableImageError:
                print(peak() - before)
        """
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    growth = [int(line) for line in completed.stdout.split()]
    assert len(growth) == 2
    assert max(growth) < 16 * 1024  # kB; the pixels are 7.5 GB, and 2.5 GB before they are made RGB

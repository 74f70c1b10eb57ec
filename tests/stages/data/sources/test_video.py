"""Frames of videos by their numbers."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from cache import DigestCache, key_of_bytes
from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.data.images.rgb import UnreadableImageError
from stages.data.manifest import load_manifest
from stages.data.sources import video
from stages.data.sources.open_image import read_image
from stages.data.sources.sample_images import image_keys
from stages.data.sources.video import count_frames, evenly_spaced, frame_location, video_frame


def write_video(path, frames=20, codec="mpeg4", key_frames=6, first=0):
    """A video whose frame i is grey of the brightness first + 10 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(10), options={"g": str(key_frames), "sc_threshold": "1000000000"}
        )
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(frames):
            pixels = np.full((32, 48, 3), first + 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(location):
    return float(read_image(location).float().mean())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_a_frame_is_the_one_of_its_number_in_whatever_order_they_are_asked_for(tmp_path, name):
    path = str(write_video(tmp_path / name))
    assert count_frames(path) == 20
    for number in (0, 1, 7, 19, 3, 12, 11):
        assert brightness(frame_location(path, number)) == pytest.approx(10 * number, abs=4)
    assert read_image(frame_location(path, 2)).shape == (3, 32, 48)
    with pytest.raises(UnreadableImageError, match="the video has 20 frames"):
        read_image(frame_location(path, 20))


def test_frames_that_follow_each_other_are_decoded_once(tmp_path, monkeypatch):
    path = str(write_video(tmp_path / "clip.mp4", key_frames=100))
    decoded = []
    upright = video._upright
    monkeypatch.setattr(video, "_upright", lambda frame: decoded.append(frame.pts) or upright(frame))
    started = []
    start = video._Video._start_before
    monkeypatch.setattr(
        video._Video, "_start_before", lambda self, number: started.append(number) or start(self, number)
    )
    for number in evenly_spaced(20, 4):
        video_frame(frame_location(path, number))
    assert len(decoded) == 4
    assert started == [2]


def test_a_frame_is_known_by_its_file_and_number(tmp_path):
    path = str(write_video(tmp_path / "clip.mp4"))
    locations = [frame_location(path, 3), frame_location(path, 4), str(tmp_path / "none.mp4"), "video:1:/nowhere.mp4"]
    keys, reasons = image_keys(locations, DigestCache(None))
    file_key = key_of_bytes((tmp_path / "clip.mp4").read_bytes())
    assert keys[locations[0]] == key_of_bytes(f"{file_key} frame 3".encode())
    assert len(set(keys.values())) == 2
    assert set(reasons) == set(locations[2:])


def test_videos_in_class_folders_are_samples_of_frames(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        for number in range(3):
            write_video(
                tmp_path / name / f"{name}_{number}.mp4", frames=5 + number, first=30 * number + 5 * (name == "cat")
            )
    manifest = load_manifest(DataConfig(str(tmp_path), frames=6))
    assert [len(views) for views in manifest.images] == [5, 6, 6] * 2
    assert manifest.images[2][0].location == f"video:0:{tmp_path / 'cat' / 'cat_2.mp4'}"
    assert "samples are 6 videos in the classes, of 0 images" in manifest.notes
    with pytest.raises(Exception, match=r"\.mp4 6.*Videos are read with `frames`"):
        load_manifest(DataConfig(str(tmp_path)))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"PyAV, which is not installed: pip install 'av>=12'"):
        load_manifest(DataConfig(str(tmp_path), frames=6))


def test_a_file_that_is_no_video_is_listed_with_its_reason(tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            write_video(tmp_path / name / f"{name}_{number}.mp4", frames=2, first=30 * number + 5 * (name == "cat"))
    (tmp_path / "cat" / "broken.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(100))
    manifest = load_manifest(DataConfig(str(tmp_path), frames=2))
    broken = manifest.locations[0]
    assert broken.endswith("broken.mp4")
    with pytest.raises(UnreadableImageError, match="a video"):
        read_image(broken)


def test_one_video_gives_its_frames_without_labels(tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    manifest = load_manifest(DataConfig(str(path), frames=5), labels=False)
    assert [location.split(":")[1] for location in manifest.locations] == ["2", "6", "10", "14", "18"]
    assert len(load_manifest(DataConfig(str(path)), labels=False)) == 20


def test_numbers_are_evenly_spaced():
    assert evenly_spaced(10, None) == evenly_spaced(10, 20) == list(range(10))
    assert evenly_spaced(10, 5) == [1, 3, 5, 7, 9]
    assert evenly_spaced(100, 1) == [50]

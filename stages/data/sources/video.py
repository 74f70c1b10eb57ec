"""Frames of video files: which there are, and how one becomes an image.

A frame is at ``video:NUMBER:PATH`` and counted from 0 in the order in which it is shown. Its key is made of the
digest of the file and its number, so that a video whose frames are all in the cache is never decoded. Needs PyAV.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import key_of_bytes
from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.images.rgb import UnreadableImageError
from stages.data.sources.records import Progress, SourceRecords, unlabeled_records
from stages.data.sources.registry import register_source

VIDEO = "video:"
"""What the locations of frames begin with."""

VIDEO_EXTENSIONS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv".split())  # noqa: SIM905
"""Files with these endings are taken for videos."""

_INSTALL = "pip install 'av>=12'"

_OPEN = threading.local()
"""The video that a thread decodes: frames are asked for in order, and those between are decoded once."""


def is_video(path: str | Path) -> bool:
    """Return whether a file is a video by its name."""
    return Path(path).suffix.lower() in VIDEO_EXTENSIONS


def frame_location(path: str, number: int) -> str:
    """Return the location of a frame."""
    return f"{VIDEO}{number}:{path}"


def split_frame(location: str) -> tuple[str, int] | None:
    """Return the file and the number of a frame; None where a location is none."""
    if not location.startswith(VIDEO):
        return None
    number, _, path = location.removeprefix(VIDEO).partition(":")
    return (path, int(number)) if number.isdecimal() and path else None


def key_of_frame(file_key: str, number: int) -> str:
    """Return the key of a frame of the file with that key."""
    return key_of_bytes(f"{file_key} frame {number}".encode())


def count_frames(path: str) -> int:
    """Return how many frames a video shows; nothing is decoded.

    Raises
    ------
    UnreadableImageError
        If the file is no video, or damaged.
    UsageError
        If PyAV is not there.
    """
    av = _av()
    try:
        with av.open(path) as container:
            stream = _video_stream(container, path)
            # a container of these states it; of others the packets are counted
            return int(stream.frames) or len(_shown(container, stream))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UnreadableImageError(_reason(error), path) from error


def video_frame(location: str, shorter_side: int | None = None) -> Tensor:
    """Return the frame at ``video:NUMBER:PATH``, uint8 [3, H, W], upright; it is never reduced."""
    frame = split_frame(location)
    if frame is None:
        raise UnreadableImageError("a frame is at video:NUMBER:PATH", location)
    path, number = frame
    av = _av()
    try:
        video = getattr(_OPEN, "video", None)
        if video is None or video.path != path or video.has_changed:
            if video is not None:
                video.close()
            _OPEN.video = video = _Video(path)
        return _upright(video.frame(number))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _OPEN.video = None
        raise UnreadableImageError(_reason(error), location) from error


def is_one_video(path: Path) -> bool:
    """Return whether a path is a video file."""
    return path.is_file() and is_video(path)


@register_source("video", open_image=video_frame, takes_path=is_one_video, help_text="a video file (its frames)")
def list_video(options: DataConfig, progress: Progress | None = None) -> SourceRecords:
    """Return the frames of one video, which have no labels: all of them, or `frames` evenly spaced ones."""
    total = count_frames(options.data)
    frames = [frame_location(options.data, number) for number in evenly_spaced(total, options.frames)]
    if not frames:
        raise DataError(f"{options.data} has no frames")
    return unlabeled_records(frames, f"{options.data} is a video, whose frames have no labels", [])


def evenly_spaced(total: int, count: int | None) -> list[int]:
    """Return so many of the numbers below `total`, the middle ones of equal parts; all if there are fewer."""
    if count is None or count >= total:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


class _Video:
    """A video that is being decoded, frame by frame.

    To a frame further on it goes by decoding what lies between, or, where a key frame lies between, from that on: by
    the times of all packets, which say exactly which frame has which number.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity = _identity(path)
        self._container = _av().open(path)
        self._stream = _video_stream(self._container, path)
        self._stream.thread_type = "NONE"  # each thread of an extraction decodes a video of its own
        shown = _shown(self._container, self._stream)
        self._times = sorted(time for time, _ in shown)
        self._key_times = sorted(time for time, is_key in shown if is_key)
        self._has_times = len(set(self._times)) == len(self._times) and None not in self._times
        self._frames: Iterator[Any] = iter(())
        self._next = len(self._times)

    @property
    def has_changed(self) -> bool:
        """Whether the file is another one by now."""
        return _identity(self.path) != self._identity

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frame(self, number: int) -> Any:
        """Return a decoded frame by its number."""
        if number >= len(self._times):
            raise UnreadableImageError(f"the video has {len(self._times):,} frames", self.path)
        if number < self._next or self._has_key_frame_between(number):
            self._start_before(number)
        for frame in self._frames:
            if self._has_times and frame.pts is not None:
                if frame.pts < self._times[self._next]:
                    continue  # a seek lands before it
                self._next = max(self._next, bisect_left(self._times, frame.pts))  # where some cannot be decoded
            self._next += 1
            if self._next > number:
                return frame
        raise UnreadableImageError("cut off: frames of its list cannot be decoded", self.path)

    def _has_key_frame_between(self, number: int) -> bool:
        return self._has_times and self._key_frame_before(number) > self._next

    def _key_frame_before(self, number: int) -> int:
        """Return the number of the last key frame up to a frame."""
        index = bisect_right(self._key_times, self._times[number])
        return self._times.index(self._key_times[index - 1]) if index else 0

    def _start_before(self, number: int) -> None:
        first = self._key_frame_before(number) if self._has_times else 0
        if first and self._has_times:
            self._container.seek(self._times[first], stream=self._stream)
        else:
            self._container.close()
            self._container = _av().open(self.path)
            self._stream = _video_stream(self._container, self.path)
            self._stream.thread_type = "NONE"
            first = 0
        self._frames, self._next = self._container.decode(self._stream), first


def _shown(container: Any, stream: Any) -> list[tuple[Any, bool]]:
    """Return the time and whether it is a key frame of every packet that is shown."""
    return [
        (packet.pts, bool(packet.is_keyframe))
        for packet in container.demux(stream)
        if packet.size and not getattr(packet, "is_discard", False)
    ]


def _video_stream(container: Any, path: str) -> Any:
    if not container.streams.video:
        raise UnreadableImageError("there is no video in it", path)
    return container.streams.video[0]


def _upright(frame: Any) -> Tensor:
    """Return a decoded frame as RGB, turned as its file says."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame.to_ndarray(format="rgb24"))).permute(2, 0, 1)
    quarters = round(getattr(frame, "rotation", 0) / 90) % 4
    return torch.rot90(pixels, quarters, dims=(1, 2)).contiguous()


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _av() -> Any:
    try:
        return import_module("av")
    except ImportError as error:
        raise UsageError(f"video files are read by PyAV, which is not installed: {_INSTALL}") from error

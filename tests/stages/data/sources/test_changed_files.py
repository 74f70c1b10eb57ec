import os

import pytest
from PIL import Image

from cache import DigestCache, key_of_bytes
from cache.keys import key_of_file
from stages.data.sources import changed_files
from stages.data.sources.changed_files import file_of, holds_key
from stages.data.sources.in_memory import InMemoryImage
from stages.data.sources.tiles import tile_key, tile_location
from stages.data.sources.video import frame_location, key_of_frame
from stages.tasks.tiles import Box

BOX = Box(2, 4, 8, 8)


@pytest.mark.parametrize(
    ("named", "keyed"),
    [
        (lambda path: path, lambda key: key),
        (lambda path: tile_location(path, BOX), lambda key: tile_key(key, BOX)),
        (lambda path: frame_location(path, 3), lambda key: key_of_frame(key, 3)),
        (lambda path: tile_location(frame_location(path, 3), BOX), lambda key: tile_key(key_of_frame(key, 3), BOX)),
    ],
    ids=["file", "tile", "frame", "tile of a frame"],
)
def test_what_is_in_a_file_has_its_key_until_the_file_changes_or_goes(tmp_path, named, keyed):
    path = tmp_path / "a: b.png"
    path.write_bytes(b"before")
    location, key = named(str(path)), keyed(key_of_bytes(b"before"))
    assert file_of(location) == str(path)
    assert holds_key(location, key)
    path.write_bytes(b"after")
    assert not holds_key(location, key)
    path.write_bytes(b"before")
    assert holds_key(location, key)
    path.unlink()
    assert not holds_key(location, key)


def test_a_file_that_is_older_than_its_key_is_not_read_and_one_of_about_the_time_is(tmp_path, monkeypatch):
    path, read = tmp_path / "image.png", []
    path.write_bytes(b"before")
    memo = DigestCache(None)
    keys, _ = memo.keys([str(path)])
    monkeypatch.setattr(changed_files, "key_of_file", lambda path: read.append(path) or key_of_file(path))
    assert holds_key(str(path), keys[str(path)], memo.asked_ns)
    assert read == [str(path)]  # it could have been changed once more within a tick of the clock
    changed = path.stat().st_ctime_ns
    assert holds_key(str(path), "of another", changed + 3_000_000_000)
    assert len(read) == 1
    path.write_bytes(b"after!")
    os.utime(path, (0, 0))  # as an editor puts it back, but not the time of the change
    assert not holds_key(str(path), keys[str(path)], memo.asked_ns)


def test_what_is_in_no_file_cannot_change():
    in_memory = InMemoryImage("image 0", Image.new("RGB", (32, 32)))
    for location in (in_memory, tile_location(in_memory, BOX), "digits:17"):
        assert file_of(location) is None
        assert holds_key(location, "any")

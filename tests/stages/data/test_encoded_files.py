"""Files read whole into one piece of memory; what cannot be read so is left to others."""

import os

import pytest

from stages.data import encoded_files
from stages.data.encoded_files import read_encoded
from stages.data.images.jpeg_structure import JpegSize
from tests.photographs import photograph


def test_files_lie_one_after_the_other_and_others_are_empty(tmp_path):
    for number in range(3):
        photograph((10, 90, 200), number, side=32).save(tmp_path / f"{number}.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    names = ["0.jpg", "text.jpg", "gone.jpg", "empty.jpg", "1.jpg", ".", "pipe.jpg", "link.jpg", "bad\0name", "2.jpg"]
    files = read_encoded([str(tmp_path / name) for name in names])
    read = {name: bytes(files.data[slice(*span)]) for name, span in zip(names, files.spans, strict=True)}
    for name in ("0.jpg", "1.jpg", "2.jpg", "text.jpg"):
        assert read[name] == (tmp_path / name).read_bytes()
    assert not any(read[name] for name in ("gone.jpg", "empty.jpg", ".", "pipe.jpg", "link.jpg", "bad\0name"))
    size = JpegSize(32, 32)
    assert files.jpegs == [size, None, None, None, size, None, None, None, None, size]


def test_nothing_to_read_is_no_error():
    files = read_encoded([])
    assert (len(files.data), files.spans, files.jpegs) == (0, [], [])


@pytest.mark.parametrize("change", [-3, 5])
def test_a_file_that_changes_while_it_is_read_is_left_to_others(tmp_path, monkeypatch, change):
    path = tmp_path / "image.jpg"
    photograph((10, 90, 200), 1, side=32).save(path)
    stat = os.stat

    def before(location):
        found = stat(location)
        data = path.read_bytes()
        path.write_bytes(data[:change] if change < 0 else data + bytes(change))
        return found

    monkeypatch.setattr("stages.data.encoded_files.os.stat", before)
    files = read_encoded([str(path)])
    assert files.spans[0][0] == files.spans[0][1]
    assert files.jpegs == [None]


def test_the_largest_of_many_files_are_looked_for_in_an_even_sample(tmp_path, monkeypatch):
    for number in range(7):
        (tmp_path / str(number)).write_bytes(bytes(10**number))
    files = [str(tmp_path / str(number)) for number in range(7)]
    assert encoded_files.bytes_of_largest(files, 2) == 1_100_000
    monkeypatch.setattr(encoded_files, "_LOOKED_AT", 3)
    assert encoded_files.bytes_of_largest(files, 2) == 1_001_000
    assert encoded_files.bytes_of_largest([], 2) == 0

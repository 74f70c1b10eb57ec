import os

import pytest

from cache.errors import DataError
from stages.data.sources.table_paths import TablePaths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/photos/a.jpg", "table/photos/a.jpg", "table/ü.jpg", "table/ b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "table"


@pytest.mark.parametrize(
    ("path", "location", "note"),
    [
        ("photos/a.jpg", "photos/a.jpg", None),
        ("none.jpg", "none.jpg", None),
        (" b.jpg", " b.jpg", None),
        (r"photos\a.jpg", "photos/a.jpg", "back-slashes, as on Windows, were read as slashes in 1 of the paths"),
        (r"none\a.jpg", r"none\a.jpg", None),
        ("~/photos/a.jpg", "../home/photos/a.jpg", "~ was read as the home folder in 1 of the paths"),
        ("~/none.jpg", "../home/none.jpg", None),
        (" photos/a.jpg", "photos/a.jpg", "blanks at the ends were left out in 1 of the paths"),
        (os.fsdecode(b"\xfc.jpg"), "ü.jpg", "what is not UTF-8 was read as code page 1252 in 1 of the paths"),
        (os.fsdecode(b"none\xfc.jpg"), os.fsdecode(b"none\xfc.jpg"), None),
    ],
)
def test_a_path_is_the_file_it_means_and_as_written_where_there_is_none(folder, path, location, note):
    paths = TablePaths(folder)
    assert os.path.normpath(paths.location(path, "line 2")) == os.path.normpath(folder / location)
    assert paths.notes == ([note] if note else [])


@pytest.mark.skipif(os.name == "nt", reason="there names cannot have back-slashes")
def test_a_file_whose_name_is_as_written_comes_first(folder):
    (folder / r"photos\a.jpg").touch()
    assert TablePaths(folder).location(r"photos\a.jpg", "line 2") == str(folder / r"photos\a.jpg")


def test_all_that_was_done_to_a_path_is_said(folder):
    paths = TablePaths(folder)
    for _ in range(2):
        assert paths.location("~\\photos\\a.jpg ", "line 2") == str(folder.parent / "home/photos/a.jpg")
    assert [note.partition(" in ")[2] for note in paths.notes] == ["2 of the paths"] * 3


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://bucket/a.jpg", "gs://b/a.jpg", "file:///a.jpg"])
def test_a_url_is_refused_by_its_line(folder, url):
    with pytest.raises(DataError, match=f"line 7: {url} is a URL: download the images"):
        TablePaths(folder).location(url, "line 7")


@pytest.mark.skipif(os.name == "nt", reason="there these are paths like any other")
@pytest.mark.parametrize("path", [r"C:\Users\me\a.jpg", "d:/a.jpg", r"\\server\share\a.jpg"])
def test_a_place_on_a_windows_machine_is_refused_by_its_line(folder, path):
    with pytest.raises(DataError, match=r"line 7: .* is a place on a Windows machine, .* from the folder of the table"):
        TablePaths(folder).location(path, "line 7")

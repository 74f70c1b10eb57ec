import codecs

import pytest

from cache.errors import DataError
from stages.data.sources.table_file import TableFile

NAMES = ("path", "label")
ROWS = [{"path": "a.jpg", "label": "Löwe"}, {"path": "b.jpg", "label": "猫"}]


def table_of(tmp_path, data):
    path = tmp_path / "table.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return TableFile(path, NAMES)


def fields(table):
    return [row for _, row in table.rows()]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16", b""),  # which Python marks itself
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32", b""),
    ],
)
def test_encoding_and_separator_are_found_out(tmp_path, encoding, mark, separator):
    text = "\r\n".join(separator.join(row) for row in (NAMES, *(row.values() for row in ROWS)))
    table = table_of(tmp_path, mark + text.encode(encoding))
    assert fields(table) == ROWS
    assert any(encoding[:6].upper() in note for note in table.notes) == (encoding != "utf-8")
    assert any("columns separated by" in note for note in table.notes) == (separator != ",")


@pytest.mark.parametrize("first_line", ["sep=#", '"sep=#"', "sep=;"])
def test_the_separator_may_stand_in_the_first_line(tmp_path, first_line):
    separator = first_line.strip('"')[-1]
    table = table_of(tmp_path, f"{first_line}\npath{separator}label,note\na,b.jpg{separator}cat\n")
    assert table.first_line == f"path{separator}label,note"
    assert list(table.rows()) == [(f"{table.path}, line 3", {"path": "a,b.jpg", "label,note": "cat"})]


def test_a_separator_is_one_that_separates_names_that_are_known(tmp_path):
    table = table_of(tmp_path, "path,label,note;more;of;it\na.jpg,cat,x;y\n")
    assert fields(table) == [{"path": "a.jpg", "label": "cat", "note;more;of;it": "x;y"}]
    assert table.notes == []


def test_code_page_1252_is_read_field_by_field_and_said(tmp_path):
    table = table_of(tmp_path, b"path,label,gr\xf6\xdfe\n\xfc.jpg,L\xf6we,1\n" + "ü.jpg,Löwe,2\n".encode())
    assert [row for _, row in table.rows(verbatim="path")] == [
        {"path": "\udcfc.jpg", "label": "Löwe", "größe": "1"},
        {"path": "ü.jpg", "label": "Löwe", "größe": "2"},
    ]
    (note,) = table.notes
    assert note == (
        "table.csv: what is not UTF-8 was read as code page 1252, which Excel writes as plain CSV in the west, in 1 of "
        "the fields: Löwe. If that is wrong, save the table as 'CSV UTF-8'"
    )


def test_bytes_of_no_encoding_stay_as_they_are(tmp_path):
    table = table_of(tmp_path, b"path,label\na.jpg,\x81\n")
    assert fields(table) == [{"path": "a.jpg", "label": "\udc81"}]
    assert table.notes == []


def test_columns_of_one_name_are_refused_where_they_are_read_and_told_where_not(tmp_path):
    with pytest.raises(DataError, match="has several columns called path and several called label"):
        table_of(tmp_path, "path,Label,label,PATH\n")
    table = table_of(tmp_path, "path,label,note,note,,\na.jpg,cat,1,2,,\n")
    assert fields(table)[0]["note"] == "2"
    assert table.notes == ["table.csv has several columns called note: the last of each counts"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 of a zip file", "is the workbook of a spreadsheet"),
        (codecs.BOM_UTF16_LE + b"p\0a\0t", "begins as UTF-16"),
        (b'path,"label\na.jpg,cat\n', "line 2: unexpected end"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, data)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        TableFile(tmp_path / "none.csv", NAMES)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_of_columns_may_stand_in_quotes_as_r_writes_them(tmp_path, separator):
    table = table_of(tmp_path, f'"path"{separator}"label"\n"a.jpg"{separator}"Löwe"\n"b.jpg"{separator}"猫"\n')
    assert fields(table) == ROWS


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, .* run git lfs pull"),
        (b"<!doctype html><html></html>", "a web page"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"PK\x03\x04", "the workbook of a spreadsheet"),
    ],
)
def test_other_files_are_named_in_place_of_columns_that_they_lack(tmp_path, data, words):
    with pytest.raises(DataError, match=rf"table\.csv is {words}"):
        table_of(tmp_path, data)

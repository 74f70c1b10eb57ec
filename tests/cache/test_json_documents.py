from __future__ import annotations

import json

import pytest

from cache.errors import CacheError
from cache.json_documents import BrokenDocumentError, read_document, write_document


def test_a_document_comes_back_as_it_was(tmp_path):
    values = {"a\n\udcff": "text \N{GRINNING FACE}", "b": [1, 2.5, None]}
    write_document(tmp_path / "file.json", "kind", values=values)
    assert read_document(tmp_path / "file.json", "kind", "values") == values


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"encoding-type": "other", "encoding-version": 1, "values": {}}',
        b'{"encoding-type": "kind", "encoding-version": 1}',
        b'{"encoding-type": "kind", "encoding-version": 1, "values": 3}',
    ],
)
def test_a_damaged_document_is_refused_by_name(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(BrokenDocumentError, match=r"file\.json is damaged"):
        read_document(tmp_path / "file.json", "kind", "values")


def test_a_document_of_another_version_says_so(tmp_path):
    (tmp_path / "file.json").write_text(json.dumps({"encoding-type": "kind", "encoding-version": 2, "values": {}}))
    with pytest.raises(CacheError, match=r"file\.json was made by another version.*version 2") as caught:
        read_document(tmp_path / "file.json", "kind", "values")
    assert not isinstance(caught.value, BrokenDocumentError)

"""The small JSON files of a cache: each says what it is and in which version, and is read with the same distrust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.atomic_write import write_atomically
from cache.errors import CacheError

_VERSION = 1
_MOST_BYTES = 1 << 28


class BrokenDocumentError(CacheError):
    """A JSON file of the cache that is damaged or not what its place says."""


def write_document(path: Path, encoding: str, **values: Mapping[str, Any]) -> None:
    """Publish a document; its values are mappings of JSON values.

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    document = {"encoding-type": encoding, "encoding-version": _VERSION, **values}
    write_atomically(path, json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode("ascii"))


def read_document(path: Path, encoding: str, name: str) -> dict[str, Any]:
    """Return the mapping called `name` of a document.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BrokenDocumentError
        If it is damaged, or of another kind.
    CacheError
        If it was made by another version of Cutonce, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
        document = json.loads(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenDocumentError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("encoding-type") != encoding:
        raise BrokenDocumentError(f"{path} is damaged: it does not say that it is {encoding!r}")
    if document.get("encoding-version") != _VERSION:
        raise CacheError(
            f"{path} was made by another version of Cutonce: {encoding!r} version "
            f"{document.get('encoding-version')!r}, and this one reads version {_VERSION}; read it with the version "
            "that wrote it, or choose another `cache`"
        )
    values = document.get(name)
    if not isinstance(values, dict):
        raise BrokenDocumentError(f"{path} is damaged: {name} is not there")
    return values

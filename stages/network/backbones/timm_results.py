"""timm's table of ImageNet results: fetched when asked for, and kept with its date among the user's caches."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from cache.atomic_write import write_atomically
from cache.errors import CutonceError, DataError
from stages.runtime.user_folder import user_cache_folder

RESULTS_URL = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/main/results/results-imagenet.csv"

_SECONDS = 30
_COLUMNS = ("model", "top1", "img_size")


class TimmResult(NamedTuple):
    """What timm measured of a network on ImageNet-1k's validation images.

    Attributes
    ----------
    accuracy : float
        Top-1, from 0 to 1.
    image_size : int
        In pixels.
    """

    accuracy: float
    image_size: int


@dataclass(frozen=True)
class TimmResults:
    """The table.

    Attributes
    ----------
    results : dict
        Name of the network, ``resnet50.a1_in1k``, -> its result.
    date : str
        Day on which it was fetched, YYYY-MM-DD.
    source : str
        From where.
    """

    results: dict[str, TimmResult]
    date: str
    source: str


def update_results(source: str = RESULTS_URL) -> TimmResults:
    """Fetch the table from a URL, or read it from a file, and keep it for `read_results`.

    Raises
    ------
    CutonceError
        If it cannot be fetched.
    DataError
        If what is there is another table.
    """
    text = _fetched(source)
    content = {
        "source": source,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "csv": text,
    }
    table = _table(content)
    path = _own_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content).encode())
    return table


def read_results() -> TimmResults | None:
    """Return the table that was fetched last; None where none was, or it is damaged."""
    try:
        return _table(json.loads(_own_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _fetched(source: str) -> str:
    try:
        if "://" not in source:
            return Path(source).read_text(encoding="utf-8")
        with urlopen(source, timeout=_SECONDS) as answer:
            return str(answer.read().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no table of timm's results: {error}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise CutonceError(
            f"timm's results could not be had from {source} ({getattr(error, 'reason', error)}). Fetch that table "
            "elsewhere and give the file: `results` FILE"
        ) from error


def _table(content: dict[str, str]) -> TimmResults:
    results: dict[str, TimmResult] = {}
    rows = csv.DictReader(io.StringIO(content["csv"]))
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{content['source']} is no table of timm's results: it has no column {missing[0]}")
    for row in rows:
        try:
            result = TimmResult(float(row["top1"]) / 100, int(row["img_size"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{content['source']}, line {rows.line_num}: {error}") from error
        results[row["model"]] = max(result, results.get(row["model"], result))
    return TimmResults(results, content["date"], content["source"])


def _own_file() -> Path:
    return user_cache_folder() / "timm-results.json"

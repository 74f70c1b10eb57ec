"""The format as it is told in ``docs/cache-format.md``: what the page shows has to work, with h5py alone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from tests.cache.conftest import SPEC, features_of, fill, make_keys, shard_paths

PAGE = (Path(__file__).parents[2] / "docs" / "cache-format.md").read_text(encoding="utf-8")
KEYS = make_keys(30)


def run(snippet: str, path: Path, shard: Path) -> dict:
    assert "import cache" not in snippet
    assert "from cache" not in snippet
    names: dict = {}
    exec(snippet.replace("CACHE/<fingerprint>", str(path)).replace("<name>", shard.stem), names)
    return names


def test_the_snippets_of_the_page_read_a_cache_without_cutonce(cache):
    fill(cache, KEYS)
    shard = shard_paths(cache)[0]
    index, rows = (run(code, cache.path, shard) for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    assert index["first_thousand"].shape == (30, 6)
    assert set(rows["rows"]) < set(KEYS)
    for key, row in rows["rows"].items():
        np.testing.assert_array_equal(row, features_of([key])[0])


def test_the_fingerprint_can_be_made_from_spec_json_as_the_page_says(cache):
    fill(cache, KEYS)
    spec = json.loads((cache.path / "spec.json").read_text())["spec"]
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(canonical).hexdigest()[:32] == cache.path.name == SPEC.fingerprint
    example = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)[0])
    assert example.keys() == json.loads((cache.path / "spec.json").read_text()).keys()
    assert example["spec"].keys() == spec.keys()

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cache import FeatureCache, Spec, list_caches
from cache.errors import CacheError
from tests.cache.conftest import SPEC, fill, make_keys


def test_every_cache_is_listed_the_newest_first_with_what_it_is_made_of(tmp_path):
    other = Spec.from_json({**SPEC.to_json(), "cut": "layer3"})
    for age, (spec, rows) in enumerate([(SPEC, 20), (other, 7)]):
        fill(FeatureCache(tmp_path, spec), make_keys(rows))
        os.utime(tmp_path / spec.fingerprint / "shards", (1000 - age,) * 2)
    (tmp_path / "keys.sqlite").write_text("not a cache")
    first, second = list_caches(tmp_path)
    assert (first.spec, first.rows, first.modified, first.notes) == (SPEC, 20, 1000, [])
    assert (second.spec, second.rows, second.path) == (other, 7, tmp_path / other.fingerprint)
    assert first.size == sum(path.stat().st_size for path in first.path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "is damaged"), (None, "No such file"), ("other", "not the spec")]
)
def test_a_cache_that_cannot_be_told_is_listed_with_the_reason(tmp_path, content, reason):
    cache = FeatureCache(tmp_path, SPEC)
    fill(cache, make_keys(3))
    document = cache.path / "spec.json"
    if content is None:
        document.unlink()
    else:
        document.write_text(document.read_text().replace("layer4", "layer3") if content == "other" else content)
    [summary] = list_caches(tmp_path)
    assert (summary.spec, summary.rows) == (None, 0)
    assert reason in summary.notes[0]


def test_no_folder_is_no_traceback(tmp_path):
    assert list_caches(tmp_path) == []
    with pytest.raises(CacheError, match="check --cache"):
        list_caches(Path(tmp_path / "nowhere"))

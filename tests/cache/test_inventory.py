from __future__ import annotations

import os
from pathlib import Path

import pytest

from cache import FeatureCache, Spec, find_caches, list_caches, open_cache
from cache.errors import CacheError, UsageError
from tests.cache.conftest import SPEC, fill, make_keys


def test_every_cache_is_listed_the_newest_first_with_what_it_is_made_of(tmp_path):
    other = Spec.from_json({**SPEC.to_json(), "cut": "layer3"})
    for age, (spec, rows) in enumerate([(SPEC, 20), (other, 7)]):
        fill(FeatureCache(tmp_path, spec), make_keys(rows))
        os.utime(tmp_path / spec.fingerprint / "shards", (1000 - age,) * 2)
    (tmp_path / "keys.sqlite").write_text("not a cache")
    with FeatureCache(tmp_path, SPEC).leases() as leases:
        leases.pending_rows = 5
        leases.tell_pending_rows()
        assert [summary.pending for summary in list_caches(tmp_path)] == [5, 0]
    first, second = list_caches(tmp_path)
    assert (first.spec, first.rows, first.views, first.modified, first.notes) == (SPEC, 20, 1, 1000, [])
    assert (second.spec, second.rows, second.path) == (other, 7, tmp_path / other.fingerprint)
    assert first.size == sum(path.stat().st_size for path in first.path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "is damaged"), (None, "is not there"), ("other", "not the spec")]
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


def test_caches_are_found_by_the_first_digits_of_their_fingerprints(tmp_path):
    names = ["ab12" + "0" * 28, "ab34" + "0" * 28, "cd" + "0" * 30]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "ab-no-cache").mkdir()
    assert find_caches(tmp_path) == [tmp_path / name for name in names]
    assert find_caches(tmp_path, ["C", "ab34", "cd"]) == [tmp_path / names[index] for index in (2, 1, 2)]
    with pytest.raises(UsageError, match=f"no cache in .* begins with 'ef'; there are {', '.join(names)}"):
        find_caches(tmp_path, ["ef"])
    with pytest.raises(UsageError, match=f"'ab' may be any of {names[0]}, {names[1]}; give more digits"):
        find_caches(tmp_path, ["cd", "ab"])


def test_a_cache_is_opened_by_its_folder_alone(tmp_path):
    fill(FeatureCache(tmp_path, SPEC), make_keys(20))
    cache = open_cache(tmp_path / SPEC.fingerprint)
    assert (cache.spec, len(cache)) == (SPEC, 20)
    with pytest.raises(CacheError, match=r"spec\.json is not there"):
        open_cache(tmp_path / ("0" * 32))


def test_no_folder_is_no_traceback(tmp_path):
    assert list_caches(tmp_path) == []
    with pytest.raises(CacheError, match="there is no cache"):
        find_caches(tmp_path)
    with pytest.raises(CacheError, match="check `cache`"):
        list_caches(Path(tmp_path / "nowhere"))

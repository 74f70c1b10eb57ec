"""Candidates on real photographs: what is extracted, what is compared, and what is said of those that cannot be."""

import numpy as np
import pytest

from cache import inventory
from cache.errors import DataError
from pipeline.experiment.probes import suggest_backbones as room
from pipeline.experiment.probes.suggest_backbones import choose_samples, suggest_backbones
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extractor import build_extractor

TINY = ["timm:test_resnet", "timm:test_efficientnet"]


@pytest.fixture(scope="module")
def manifest(photographs):
    return load_manifest(DataConfig(str(photographs)))


def options(folder, **changed):
    return FeatureConfig(**{"image_size": 32, "cache": folder / "cache", "storage_dtype": "float32", **changed})


def test_samples_are_no_test_samples_and_have_their_shares_of_the_classes(manifest):
    test = {manifest.keys[index] for index in manifest.indices("test")}
    for count in (15, 1000):
        chosen = choose_samples(manifest, count, seed=3)
        assert len(chosen) == min(count, len(manifest) - len(test))
        assert not test & set(chosen.keys)
        assert np.ptp(np.bincount(chosen.targets)) <= 1
    assert choose_samples(manifest, 15, 3).keys != choose_samples(manifest, 15, 4).keys


def test_what_can_be_looked_at_is_judged_with_its_cost_and_what_cannot_has_a_reason(manifest, tmp_path):
    samples = choose_samples(manifest, 45, 0)
    candidates = ["efficientnet_lite0", "no_such_network", "efficientnet_lite0"]
    found = suggest_backbones(candidates, samples, options(tmp_path), 0, len(manifest))
    [entry] = found.ranked
    assert (entry.name, entry.behind.value, found.recommended) == ("efficientnet_lite0", 0, entry)
    assert entry.score > 0.8
    assert list(found.failed) == ["no_such_network"]
    assert "There is no backbone" in found.failed["no_such_network"]
    cost = found.costs["efficientnet_lite0"]
    extractor = build_extractor(options(tmp_path, backbone="efficientnet_lite0"))
    assert cost.width == 1280
    assert cost.images_per_second == pytest.approx(45 / extractor.seconds(samples.keys))
    [cached] = inventory.list_caches(tmp_path / "cache")
    assert cached.rows == 45  # of the images that were looked at, for a later extraction, and of no test image


def test_of_many_candidates_a_sieve_leaves_those_with_the_most_evidence(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "SIEVED_FROM", 2)
    monkeypatch.setattr(room, "survivors", lambda evidence: sorted(evidence, key=evidence.get)[-1:])
    samples = choose_samples(manifest, 36, 0)
    found = suggest_backbones(TINY, samples, options(tmp_path, weights="none"), 0, len(manifest))
    assert {entry.name for entry in found.ranked} | set(found.sieved_out) == set(TINY)
    assert len(found.sieved_out) == 1
    rows = {summary.spec.backbone: summary.rows for summary in inventory.list_caches(tmp_path / "cache")}
    assert rows == {name: 12 if name in found.sieved_out else 36 for name in TINY}


def test_where_nothing_can_be_looked_at_the_reasons_are_told(manifest, tmp_path):
    with pytest.raises(DataError, match=r"none of the candidate.*\(resnet99: There is no backbone 'resnet99'"):
        suggest_backbones(["resnet99"], choose_samples(manifest, 20, 0), options(tmp_path), 0, 72)

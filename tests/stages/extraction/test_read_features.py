"""Cached rows of images become rows and bags of samples."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cache import Spec, open_cache
from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.extraction import read_features as reading
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor, with_cut
from stages.extraction.read_features import drop_unreadable, read_bags, read_features


def test_rows_of_samples_are_made_of_the_cached_rows_of_their_images(probe, pairs):
    manifest = pairs
    row_of = dict(zip(probe.manifest.keys, probe.features, strict=True))
    expected = [np.stack([row_of[image.key] for image in views if image]) for views in manifest.images]
    mean = read_features(probe.extractor, manifest)
    assert np.allclose(mean, [rows.mean(axis=0) for rows in expected], atol=1e-6)
    bags = read_bags(probe.extractor, manifest)
    assert bags.shape == (36, 2, 1281)
    assert np.array_equal(bags[..., -1], [[1, float(len(rows) > 1)] for rows in expected])
    assert np.array_equal(bags[1, :, :-1], expected[1])
    assert not bags[0, 1].any()


def test_a_sample_whose_second_image_is_lost_counts_with_its_first(probe, pairs):
    manifest = pairs
    lost = manifest.images[1][1].key
    extractor = _Rejecting({lost})
    left = drop_unreadable(extractor, manifest)
    assert len(left) == len(manifest)
    assert left.images[1] == (manifest.images[1][0], None)
    row_of = dict(zip(probe.manifest.keys, probe.features, strict=True))
    assert np.array_equal(read_features(probe.extractor, left)[1], row_of[left.images[1][0].key])


@pytest.fixture(scope="module")
def tapped(probe, tmp_path_factory):
    """Rows of taps of some photographs: the extractor, and the manifest."""
    manifest = probe.manifest.select(range(0, 72, 6))
    options = replace(
        probe.extractor.options, taps="all", pool="avg,max,std", cache=tmp_path_factory.mktemp("taps") / "cache"
    )
    extractor = build_extractor(options)
    extract(extractor, manifest)
    return extractor, manifest


def test_one_cached_row_holds_the_blocks_of_all_depths(tapped, probe):
    extractor, manifest = tapped
    layout, (tap,) = extractor.tap_layout, extractor.taps
    rows = read_features(extractor, manifest)
    assert rows.shape == (12, layout.width) == (12, *extractor.row_shape)
    assert np.array_equal(rows[:, layout.slices["global_pool.flatten:none"]], probe.features[::6])
    opened = open_cache(tap.cache.path)
    assert opened.spec == tap.cache.spec
    assert (opened.spec.cut, opened.spec.pooling) == ("35 taps up to global_pool.flatten", "avg,max,std")
    assert [f"{part['place']}:{part['pool']}" for part in opened.spec.taps] == [*layout.slices]


def test_blocks_are_read_without_the_rest(tapped, monkeypatch):
    extractor, manifest = tapped
    layout, rows = extractor.tap_layout, read_features(extractor, manifest)
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 5 * layout.width * 4)  # five rows at a time
    for names in layout.depth_sets().values():
        columns = [rows[:, layout.slices[name]] for name in names]
        assert np.array_equal(read_features(extractor, manifest, blocks=[*reversed(names)]), np.hstack(columns))
    with pytest.raises(UsageError, match=r"no block 'bn1:min'"):
        read_features(extractor, manifest, blocks=["bn1:min"])


def test_taps_are_no_cut_and_say_so(tapped):
    extractor, _ = tapped
    for name in ("cut", "cuts"):
        with pytest.raises(UsageError, match=r"`taps` all: fine-tuning .* starts from a cut.*name a layer with `cut`"):
            getattr(extractor, name)
    automatic = extractor.graph.resolve("auto")
    assert with_cut(extractor, automatic, "avg").cut == automatic


def test_a_spec_of_one_layer_is_as_it_was_before_there_were_taps(probe, tapped):
    spec = probe.extractor.taps[0].cache.spec
    assert "taps" not in spec.to_json()
    assert Spec.from_json(json.loads(spec.canonical)).fingerprint == spec.fingerprint
    assert tapped[0].fingerprint != probe.extractor.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "avg,max"}, "several are taken of `taps`"),
        ({"pool": ("avg", "avg"), "taps": "all"}, "names a pooling twice"),
        ({"pool": "avg,mean", "taps": "all"}, "mean"),
        ({"taps": "all", "cut": "blocks.3"}, "in place of a cut"),
        ({"taps": "blocks.1,,blocks.2"}, "nothing between two commas"),
    ],
)
def test_options_of_taps_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        FeatureConfig(**options)
    assert FeatureConfig(taps=["blocks.1", "blocks.2"], pool=("avg", "max")).taps == "blocks.1,blocks.2"


class _Rejecting:
    """An extractor that could not read these images."""

    def __init__(self, keys):
        self._keys = keys

    def unreadable(self):
        return dict.fromkeys(self._keys, "lost")

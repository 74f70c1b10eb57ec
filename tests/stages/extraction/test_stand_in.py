"""Complete caches of another arithmetic or decoder serve where one's own lack rows, and only such."""

from dataclasses import replace

import numpy as np
import pytest

from cache import FeatureCache, Spec
from cache.errors import CacheInputError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor, spec_of_views
from stages.extraction.read_features import read_features
from stages.extraction.stand_in import decodes_alike, stand_in
from tests.photographs import make_folder

NVJPEG = "pixels+nvjpeg/2"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return load_manifest(DataConfig(str(make_folder(tmp_path_factory.mktemp("images") / "images", per_class=4))))


@pytest.fixture
def options(tmp_path):
    return FeatureConfig(image_size=64, device="cpu", cache=tmp_path / "cache", extract_batch_size=16)


def made_elsewhere(options, manifest, decoder=NVJPEG, arithmetic=None, **changes):
    """Extract into the caches that another machine would fill: of other options, under other names of the ways."""
    extractor = build_extractor(replace(options, **changes))

    def called(tap):
        spec = Spec.from_json({**tap.cache.spec.to_json(), **ways})
        views = spec_of_views(spec, extractor.augmentation)
        return replace(tap, cache=FeatureCache(options.cache, spec), view_cache=FeatureCache(options.cache, views))

    ways = {"decoder": decoder} if arithmetic is None else {"decoder": decoder, "precision": arithmetic}
    extractor = replace(extractor, taps=tuple(map(called, extractor.taps)))
    extract(extractor, manifest)
    return extractor


def test_decoders_are_alike_but_for_the_library():
    assert decodes_alike("pixels+nvjpeg/2", "pixels/2")
    assert decodes_alike("pixels/2 page=max", "pixels+nvjpeg/2 page=max")
    assert decodes_alike("pixels+reduced+nvjpeg/2", "pixels+reduced/2")
    for decoder in ("pixels+reduced/2", "pixels/3", "pixels/2 page=max", "pixels/2 channels=0", "torchvision+pillow/1"):
        assert not decodes_alike(decoder, "pixels+nvjpeg/2")


def test_a_complete_cache_from_elsewhere_is_read_said_and_not_written(manifest, options):
    server = made_elsewhere(options, manifest, precision="bf16")
    laptop = build_extractor(options)
    taken = stand_in(laptop, manifest.keys)
    assert taken.fingerprint == server.fingerprint != laptop.fingerprint
    fingerprint = server.taps[0].cache.spec.fingerprint[:8]
    assert fingerprint in taken.stands_in
    assert "precision bf16-folded, here fp32; decoder pixels+nvjpeg/2, here pixels/2" in taken.stands_in
    assert taken.stands_in in taken.notes
    report = extract(taken, manifest)
    assert (report.extracted, report.hits) == (0, len(set(manifest.keys)))
    assert np.array_equal(read_features(taken, manifest), read_features(server, manifest))
    computed = build_extractor(replace(options, cache=options.cache.with_name("own")))
    extract(computed, manifest)
    difference = np.abs(read_features(computed, manifest) - read_features(taken, manifest))
    assert 0 < difference.mean() < 0.05, "of bf16, and not those of this machine"
    assert not laptop.taps[0].cache.path.exists()


def test_own_rows_are_read_where_all_are_there(manifest, options):
    made_elsewhere(options, manifest)
    own = build_extractor(options)
    extract(own, manifest)
    assert stand_in(own, manifest.keys) is own


def test_a_half_complete_cache_of_ones_own_is_not_mixed_with_rows_of_the_other(manifest, options):
    server = made_elsewhere(options, manifest, precision="bf16")
    own = build_extractor(options)
    extract(own, manifest.select(range(5)))
    taken = stand_in(own, manifest.keys)
    assert np.array_equal(read_features(taken, manifest), read_features(server, manifest))
    assert stand_in(own, manifest.keys[:5]) is own


def test_exact_spec_refuses_and_so_does_a_cache_that_lacks_one_row(manifest, options):
    server = made_elsewhere(options, manifest.select(range(len(manifest) - 1)))
    own = build_extractor(options)
    assert stand_in(own, manifest.keys) is own
    last = manifest.keys[-1]
    server.taps[0].cache.mark_unreadable({last: "damaged"})
    assert stand_in(own, manifest.keys).stands_in
    exact = build_extractor(replace(options, exact_spec=True))
    assert stand_in(exact, manifest.keys) is exact


@pytest.mark.parametrize(
    "change",
    [
        *({"image_size": 32}, {"storage_dtype": "float32"}, {"pool": "max"}, {"cut": "blocks.3"}, {"weights": "none"}),
        *({"crop_mode": "squash"}, {"cut": "auto", "taps": "stages"}),
    ],
)
def test_whatever_else_differs_does_not_serve(manifest, options, change):
    options = replace(options, cut="blocks.4")
    made_elsewhere(options, manifest, **change)
    own = build_extractor(options)
    assert stand_in(own, manifest.keys) is own


def test_a_decoder_that_reads_otherwise_does_not_serve(manifest, options):
    made_elsewhere(options, manifest, "pixels+reduced/2")
    made_elsewhere(options, manifest, "pixels+nvjpeg/2 page=max")
    own = build_extractor(options)
    assert stand_in(own, manifest.keys) is own


def test_of_several_the_nearest_serves(manifest, options):
    own = build_extractor(options)
    fp16 = made_elsewhere(options, manifest, precision="fp16")
    assert stand_in(own, manifest.keys).fingerprint == fp16.fingerprint
    bf16 = made_elsewhere(options, manifest, precision="bf16")
    for near in (fp16, bf16):
        assert stand_in(own, manifest.keys, like=near).fingerprint == near.fingerprint
    compiled = made_elsewhere(options, manifest, arithmetic="fp32-compiled")
    assert stand_in(own, manifest.keys).fingerprint == compiled.fingerprint
    fp32 = made_elsewhere(options, manifest)
    assert stand_in(own, manifest.keys).fingerprint == fp32.fingerprint
    for shard in fp32.taps[0].cache.path.glob("shards/*.h5"):
        shard.unlink()
    assert stand_in(own, manifest.keys).fingerprint == compiled.fingerprint


def test_a_precision_and_a_decoder_that_are_named_are_meant(manifest, options):
    made_elsewhere(options, manifest, "pixels/2", precision="fp16")
    named = build_extractor(replace(options, precision="fp32"))
    assert stand_in(named, manifest.keys) is named
    fp32 = made_elsewhere(options, manifest)  # decoded elsewhere
    assert stand_in(named, manifest.keys).fingerprint == fp32.fingerprint
    decoded_here = build_extractor(replace(options, precision="fp32", decode_on="cpu"))
    assert stand_in(decoded_here, manifest.keys) is decoded_here


def test_a_run_goes_on_with_the_features_that_it_began_with(manifest, options):
    server = made_elsewhere(options, manifest, precision="bf16")
    fp32 = made_elsewhere(options, manifest)
    own = build_extractor(options)
    assert stand_in(own, manifest.keys, known={server.fingerprint}).fingerprint == server.fingerprint
    assert stand_in(own, manifest.keys, known={"of another cut"}).fingerprint == fp32.fingerprint
    extract(own, manifest)
    assert stand_in(own, manifest.keys, known={server.fingerprint}).fingerprint == server.fingerprint
    assert stand_in(own, manifest.keys, known={"of another cut"}) is own
    assert stand_in(own, manifest.keys, known={server.fingerprint, own.fingerprint}) is own


@pytest.mark.parametrize("change", [{"cut": "blocks.4,auto"}, {"mirror": True}, {"views": 2, "augment": "flip"}])
def test_several_caches_serve_together_or_not_at_all(manifest, options, change):
    options = replace(options, **change)
    own = build_extractor(options)
    half = made_elsewhere(replace(options, cut="auto", mirror=False, views=1), manifest, precision="bf16")
    made_elsewhere(replace(options, **{**change, "cut": "blocks.4"}), manifest, precision="fp16")
    assert stand_in(own, manifest.keys) is own
    whole = made_elsewhere(options, manifest, precision="bf16")
    taken = stand_in(own, manifest.keys)
    assert taken.fingerprint == whole.fingerprint
    assert half.fingerprint in {cache.spec.fingerprint for cache in taken.caches}
    assert {(cache.spec.precision, cache.spec.decoder) for cache in taken.caches} == {("bf16-folded", NVJPEG)}


def test_views_that_are_not_wanted_need_not_be_there(manifest, options):
    options = replace(options, views=2, augment="flip")
    server = made_elsewhere(options, manifest.select(range(6)))
    extract(replace(server, options=replace(options, views=1)), manifest)
    own = build_extractor(options)
    assert stand_in(own, manifest.keys) is own
    assert stand_in(own, manifest.keys[:6], evaluated=manifest.keys).stands_in


def test_rows_that_vanish_are_not_computed_into_the_cache_of_another_machine(manifest, options):
    server = made_elsewhere(options, manifest, precision="bf16")
    taken = stand_in(build_extractor(options), manifest.keys)
    for shard in server.taps[0].cache.path.glob("shards/*.h5"):
        shard.unlink()
    with pytest.raises(CacheInputError, match="give the command again"):
        extract(taken, manifest)
    assert not server.taps[0].cache.shards


def test_rows_of_version_1_are_taken_over_before_others_serve(manifest, options):
    made_elsewhere(options, manifest)
    own = build_extractor(options)
    decoder = own.reading.decoder_of_version_1
    former = Spec.from_json({**own.taps[0].cache.spec.to_json(), "decoder": decoder})
    with FeatureCache(options.cache, former).writer() as writer:
        writer.append(
            list(dict.fromkeys(manifest.keys)),
            np.ones((len(set(manifest.keys)), *own.row_shape), np.float16),
            seconds=1.0,
        )
    assert stand_in(own, manifest.keys) is own


def test_a_damaged_cache_and_a_folder_that_is_not_there_end_nothing(manifest, options):
    own = build_extractor(options)
    assert stand_in(own, manifest.keys) is own
    (options.cache / ("0" * 32)).mkdir(parents=True)
    (options.cache / ("0" * 32) / "spec.json").write_text("{")
    assert stand_in(own, manifest.keys) is own
    server = made_elsewhere(options, manifest)
    assert stand_in(own, manifest.keys).fingerprint == server.fingerprint

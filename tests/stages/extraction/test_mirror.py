"""Features of an image and of its mirror image, averaged: in the cache, out of it, and as a module."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import CacheInputError, UsageError
from pipeline.library.functions import features
from stages.config.features import FeatureConfig
from stages.extraction.estimate import estimate
from stages.extraction.extract import extract
from stages.extraction.extractor import MIRROR_VIEW, build_extractor
from stages.extraction.read_features import read_features, require_cached
from stages.fitting.feature_rows import StreamedFeatureRows


@pytest.fixture(scope="module")
def manifest(probe):
    return probe.manifest.select(range(0, 72, 6))


@pytest.fixture(scope="module")
def extractor(probe, manifest, tmp_path_factory):
    """One that took means over mirror images, into a cache where the images alone were known."""
    options = replace(
        probe.extractor.options,
        cache=tmp_path_factory.mktemp("mirror") / "cache",
        storage_dtype="float16",
        decode_on="cpu",  # as `rendered` was
    )
    extract(build_extractor(options), manifest)
    mirrored = build_extractor(replace(options, mirror=True))
    lacking = estimate(mirrored, manifest)
    assert (lacking.images, lacking.renderings) == (12, 12)  # of the images nothing is computed again
    assert extract(mirrored, manifest).extracted == 12
    assert extract(mirrored, manifest).extracted == 0
    return mirrored


@pytest.fixture(scope="module")
def rendered(extractor, manifest):
    """The evaluation views."""
    photographs = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in manifest.locations]
    return torch.stack([extractor.backbone.preprocessing.render(image.permute(2, 0, 1)) for image in photographs])


def test_a_row_is_the_mean_over_an_image_and_its_mirror_image(extractor, manifest, rendered):
    alone = build_extractor(replace(extractor.options, mirror=False))
    of_images, of_mirrored = (torch.cat(alone.forward_rows(view)).float() for view in (rendered, rendered.flip(-1)))
    assert not torch.equal(of_images, of_mirrored)
    rows = read_features(extractor, manifest)
    assert rows.dtype == np.float16
    assert np.array_equal(rows, ((of_images + of_mirrored) / 2).half().cpu())


def test_out_of_the_cache_it_is_the_same_row(extractor, manifest, tmp_path):
    size = extractor.options.image_size
    computed = features(manifest.locations, image_size=size, mirror=True, dtype="float16", precision="fp32")
    cached = build_extractor(replace(extractor.options, cache=tmp_path, decode_on="auto"))  # as `features` decodes
    extract(cached, manifest)
    close = 0 if extractor.device.type == "cpu" else 0.01  # where batches of other sizes may be summed otherwise
    np.testing.assert_allclose(computed.astype(float), read_features(cached, manifest).astype(float), 0, close)


def test_what_a_head_sees_of_new_images_is_the_cached_row_before_it_was_rounded(extractor, manifest, rendered):
    seen = extractor.features(rendered).cpu().numpy()
    assert np.allclose(seen, read_features(extractor, manifest), rtol=2e-3, atol=2e-3)
    module = extractor.row_module(extractor.preprocess(rendered))[0]
    assert np.allclose(module.detach().cpu().numpy(), seen, rtol=1e-4, atol=1e-5)


def test_rows_that_stay_in_the_cache_are_the_same(extractor, manifest):
    rows = read_features(extractor, manifest)
    streamed = StreamedFeatureRows(require_cached(extractor, manifest), manifest.keys, manifest.targets, 1 << 25)
    assert np.array_equal(np.concatenate([part for _, part in streamed.blocks()]), rows)
    for indices, part in streamed.shuffled(5, seed=3):
        assert np.array_equal(part, rows[indices])


def test_rows_of_many_depths_are_averaged_too_whole_and_in_part(extractor, manifest):
    options = replace(extractor.options, taps="all", pool="avg,max,std")
    tapped = build_extractor(options)
    extract(tapped, manifest)
    rows = read_features(tapped, manifest)
    alone = read_features(build_extractor(replace(options, mirror=False)), manifest)
    assert not np.array_equal(rows, alone)
    name = "global_pool.flatten:none"
    part = rows[:, tapped.tap_layout.slices[name]]
    assert np.array_equal(read_features(tapped, manifest, blocks=[name]), part)
    assert np.array_equal(part, read_features(extractor, manifest))


def test_several_cuts_are_averaged_each(extractor, manifest):
    joined = build_extractor(replace(extractor.options, cut="blocks.4,auto"))
    extract(joined, manifest)
    rows = read_features(joined, manifest)
    assert np.array_equal(rows[:, -1280:], read_features(extractor, manifest))
    assert rows.shape == (12, *joined.row_shape)


def test_heads_tell_means_from_rows_of_images_alone_by_the_fingerprint(extractor):
    alone = build_extractor(replace(extractor.options, mirror=False))
    assert extractor.fingerprint != alone.fingerprint
    assert extractor.taps[0].cache.spec == alone.taps[0].cache.spec


def test_an_image_whose_mirror_image_is_not_there_is_missing(probe, manifest):
    mirrored = build_extractor(replace(probe.extractor.options, mirror=True))
    with pytest.raises(CacheInputError, match=r"12 of 12 images have no cached features .*`mirror`"):
        read_features(mirrored, manifest)
    (tap,) = mirrored.taps
    assert tap.view_cache.missing(manifest.keys, MIRROR_VIEW) == manifest.keys
    assert tap.cache.missing(manifest.keys) == []


def test_what_it_costs_is_both_passes(extractor, manifest):
    (tap,) = extractor.taps
    both = tap.cache.compute_seconds(manifest.keys) + tap.view_cache.compute_seconds(manifest.keys, 1)
    assert extractor.seconds(manifest.keys) == both > tap.cache.compute_seconds(manifest.keys) > 0


def test_it_is_of_vectors_and_has_no_other_views():
    with pytest.raises(UsageError, match="`mirror` has a view of its own"):
        FeatureConfig(mirror=True, views=3)
    with pytest.raises(UsageError, match="`mirror` is for vectors"):
        FeatureConfig(mirror=True, storage_dtype="uint8", cut="blocks.4", pool="none")
    with pytest.raises(UsageError, match="maps of mirror images are mirrored"):
        build_extractor(FeatureConfig(mirror=True, cut="blocks.4", pool="none", image_size=64))

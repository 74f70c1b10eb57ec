"""Cached rows of images become rows and bags of samples."""

import numpy as np

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


class _Rejecting:
    """An extractor that could not read these images."""

    def __init__(self, keys):
        self._keys = keys

    def unreadable(self):
        return dict.fromkeys(self._keys, "lost")

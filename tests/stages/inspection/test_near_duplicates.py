"""Copies that were made on purpose are found, across splits first; images that differ are no copies."""

import numpy as np
import torch

from stages.inspection.near_duplicates import THRESHOLD, find_duplicates
from stages.inspection.nearest_neighbors import UnitFeatures, find_neighbors

CPU = torch.device("cpu")


def duplicates(features, splits, keys=None, threshold=THRESHOLD):
    directions = UnitFeatures(features.astype(np.float16), CPU, centered=True)
    keys = keys or [f"key {number}" for number in range(len(features))]
    return find_duplicates(directions, find_neighbors(directions, 10, threshold), threshold, keys, splits)


def scattered(samples=200, width=64):
    return np.random.default_rng(0).normal(size=(samples, width))


def test_only_what_was_copied_is_found_and_leakage_comes_first():
    features, splits = scattered(), ["train"] * 120 + ["val"] * 40 + ["test"] * 40
    assert duplicates(features, splits) == []
    features[7] = features[3] + 0.01
    features[10] = 1.02 * features[170] + 0.01  # the brightness differs: no copy by distance, but one by cosine
    first, second = duplicates(features, splits)
    assert (first.index, first.other_index, first.leakage, first.exact) == (10, 170, True, False)
    assert (second.index, second.other_index, second.leakage) == (7, 3, False)
    assert first.group != second.group


def test_of_a_group_one_image_stays_and_the_cleanest_split_keeps_it():
    features, splits = scattered(), ["train"] * 120 + ["val"] * 40 + ["test"] * 40
    features[[5, 9, 130]] = features[190]
    copies = duplicates(features, splits)
    assert [(copy.index, copy.leakage) for copy in copies] == [(5, True), (9, True), (130, True)]
    assert copies[2].other_index == 190
    assert all(splits[copy.other_index] in ("val", "test") for copy in copies)
    assert len({copy.group for copy in copies}) == 1


def test_the_same_bytes_are_copies_whatever_the_features_say():
    features, splits = scattered(50), ["train"] * 30 + ["test"] * 20
    keys = [f"key {number}" for number in range(50)]
    keys[4] = keys[44]
    [copy] = duplicates(features, splits, keys, threshold=1.0)
    assert (copy.index, copy.other_index, copy.exact, copy.cosine) == (4, 44, True, 1.0)


def test_a_copy_that_was_changed_stands_out_but_uniform_images_do_not():
    """Pairs with a cosine of about 0.95: one where all others are far, and those of two crowds of such images."""
    generator = np.random.default_rng(1)
    features = scattered(100, 256)
    copied = features[20] + 0.3 * generator.normal(size=256)
    side = 5 * generator.normal(size=256)
    crowds = [sign * side + generator.normal(size=(30, 256)) for sign in (1, -1)]
    copies = duplicates(np.concatenate([features, [copied], *crowds]), ["train"] * 161)
    assert [(copy.index, copy.other_index) for copy in copies] == [(100, 20)]
    assert 0.9 < copies[0].cosine < THRESHOLD


def test_frames_of_one_scene_are_a_group_however_many():
    generator = np.random.default_rng(1)
    scene = 3 * generator.normal(size=64) + 0.05 * generator.normal(size=(40, 64))
    copies = duplicates(np.concatenate([scattered(), scene]), ["train"] * 220 + ["test"] * 20)
    assert {copy.index for copy in copies if copy.leakage} == set(range(200, 220))
    assert len(copies) == 39

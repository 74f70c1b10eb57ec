"""What a training is held against, of samples of several images too; the options of baselines are held beside training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.data.manifest import Manifest
from stages.data.sample import ImageRef
from stages.finetuning.baselines import random_head, unfitted_aggregate
from stages.tasks.single_label import SingleLabel

VECTORS, MAPS = SimpleNamespace(row_shape=(4,)), SimpleNamespace(row_shape=(4, 2, 2))


def samples(*rows):
    names = [f"sample {number}" for number in range(len(rows))]
    manifest = Manifest(names, np.zeros(len(rows), np.int64), ["train"] * len(rows), names, SingleLabel("ab"))
    return replace(manifest, images=[tuple(view and ImageRef(view, view) for view in row) for row in rows])


def test_a_head_that_knows_nothing_takes_all_images_of_a_sample_and_is_told_which_are_missing():
    aggregate = unfitted_aggregate(VECTORS, samples(("a", "b", None), ("c", "d"), ("e", "f", "g")), "concat")
    assert (aggregate.places, aggregate.indicators, aggregate.width) == (3, [2], 13)
    head = random_head(VECTORS, 2, 0, aggregate)
    assert head.takes_bags
    assert head(torch.ones(5, 3, 5)).shape == (5, 2)
    assert torch.equal(head(torch.ones(1, 3, 5)), random_head(VECTORS, 2, 0, aggregate)(torch.ones(1, 3, 5)))


def test_of_samples_of_one_image_nothing_is_aggregated_and_maps_are_refused():
    alone = replace(samples(("a",)), images=[])
    assert unfitted_aggregate(MAPS, alone, "mean") is None
    with pytest.raises(UsageError, match="takes vectors"):
        unfitted_aggregate(MAPS, samples(("a", "b")), "mean")

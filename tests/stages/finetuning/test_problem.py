"""How many samples there are in a batch."""

from dataclasses import replace

import numpy as np
import pytest

from stages.config.finetune import FinetuneConfig
from stages.data.manifest import Manifest
from stages.data.sample import ImageRef
from stages.finetuning.problem import FinetuneProblem
from stages.network.aggregate import Aggregate
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.linear import LinearHead
from stages.runtime.distributed import Rank
from stages.tasks.single_label import SingleLabel


def problem_of(sizes, batch_size, kind="mean", ranks=1):
    """Training samples of so many images each."""
    names = [f"sample {number}" for number in range(len(sizes))]
    targets = np.zeros(len(sizes), np.int64)
    manifest = Manifest(names, targets, ["train"] * len(sizes), names, SingleLabel("ab"))
    images = [
        tuple(ImageRef(f"{name} {view}", name) for view in range(size)) for name, size in zip(names, sizes, strict=True)
    ]
    head = AggregatedHead(Aggregate(kind, max(sizes), 1), LinearHead((1,), 2))
    config = FinetuneConfig(finetune_batch_size=batch_size)
    return FinetuneProblem(None, replace(manifest, images=images), head, config, 0, replace(Rank(), world_size=ranks))


@pytest.mark.parametrize(
    ("sizes", "batch_size", "ranks", "samples"),
    [
        ([4] * 10, 32, 1, 8),
        ([1, 3, 2, 2], 32, 1, 16),
        ([16] * 4, 32, 4, 4),  # one for each process at least
        ([4] * 10, 32, 3, 6),  # the same number for each process
        ([100, 100, 1], 32, 1, 1),
    ],
)
def test_a_batch_has_about_as_many_images_as_were_asked_for(sizes, batch_size, ranks, samples):
    assert problem_of(sizes, batch_size, ranks=ranks).samples_per_batch == samples


def test_samples_of_one_image_are_as_many_as_were_asked_for():
    problem = problem_of([1, 1], 32)
    assert replace(problem, manifest=replace(problem.manifest, images=[])).samples_per_batch == 32


def test_places_with_weights_of_their_own_are_never_drawn():
    views = problem_of([5], 2).manifest.images[0]
    assert (problem_of([5], 2).sampler.size(views), problem_of([5], 2, "concat").sampler.size(views)) == (2, 5)

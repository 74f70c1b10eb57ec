"""How many samples there are in a batch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.config.finetune import FinetuneConfig
from stages.data.manifest import Manifest
from stages.data.sample import ImageRef
from stages.finetuning.problem import FinetuneProblem, with_arithmetic
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
    config = FinetuneConfig(finetune_batch_size=batch_size, amp_dtype="none")
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


@pytest.mark.parametrize("bf16", [True, False])
def test_a_gpu_trains_in_16_bits_unless_something_else_is_said_and_a_cpu_in_32(pretended_cuda, bf16):
    pretended_cuda.bf16 = bf16
    device = torch.device("cuda")
    assert with_arithmetic(FinetuneConfig(), torch.device("cpu")).amp_dtype == "none"
    assert with_arithmetic(FinetuneConfig(), device).amp_dtype == ("bf16" if bf16 else "fp16")
    assert with_arithmetic(FinetuneConfig(amp_dtype="none"), device).amp_dtype == "none"
    assert with_arithmetic(FinetuneConfig(amp_dtype="auto"), device).amp_dtype == "auto"


def test_a_problem_says_in_which_arithmetic_its_extractor_trains():
    """So that a training is known by it, and goes on from checkpoints and results of before there was a default."""
    on_cpu = SimpleNamespace(device=torch.device("cpu"))
    problem = replace(problem_of([1, 1], 32), extractor=on_cpu, config=FinetuneConfig())
    assert problem.config == FinetuneConfig(amp_dtype="none")

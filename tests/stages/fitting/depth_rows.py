"""Rows of several depths, made up: few images, many numbers, and what tells classes apart at a depth that is known."""

from dataclasses import dataclass

import numpy as np
import torch

from stages.config.heads import HeadConfig
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.problem import FitProblem
from stages.tasks.single_label import SingleLabel


@dataclass(frozen=True)
class Block:
    name: str
    width: int


@dataclass(frozen=True)
class Layout:
    """Three blocks: the last, one more in the middle, and one inside."""

    blocks: tuple[Block, ...] = (Block("inner:avg", 150), Block("middle:avg", 90), Block("last:avg", 60))

    def depth_sets(self):
        inner, middle, last = (block.name for block in self.blocks)
        return {"all": (inner, middle, last), "last": (last,), "blocks": (middle, last)}


WIDTH = sum(block.width for block in Layout().blocks)
TASK = SingleLabel(("a", "b", "c"))


def rows_of(count, seed, *, told_by=slice(150, 240), strength=1.0, labels=None, dtype=np.float16):
    """Rows whose classes are told apart by the numbers of one part, all numbers having scales of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count) if labels is None else labels
    fixed = np.random.default_rng(0)
    directions, scales = fixed.normal(size=(3, WIDTH)), np.exp(0.3 * fixed.normal(size=WIDTH))
    rows = rng.normal(size=(count, WIDTH))
    rows[:, told_by] += 0.35 * strength * directions[labels][:, told_by]
    return FeatureRows((rows * scales + 2).astype(dtype), labels)


def problem_of(train, val, task=TASK, **options):
    config = HeadConfig(**{"c_values": (1e-4, 1e-3, 1e-2, 1e-1), "cv": 3, **options})
    return FitProblem(train, val, task, config, 0, torch.device("cpu"), taps=Layout())

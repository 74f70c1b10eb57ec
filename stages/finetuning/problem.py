"""What a fine-tuning is of: the network, the images, where it starts, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from stages.config.finetune import FinetuneConfig
from stages.data.manifest import Manifest
from stages.extraction.extractor import Extractor
from stages.finetuning.sample_views import ViewSampler
from stages.network.heads.base import Head
from stages.network.heads.map_head import MapHead
from stages.runtime.distributed import SINGLE_PROCESS, Rank
from stages.tasks.base import Task
from stages.training.amp import default_autocast
from stages.training.class_weights import ClassWeights


def with_arithmetic(config: FinetuneConfig, device: torch.device) -> FinetuneConfig:
    """Return options that say in which arithmetic a device trains: where they left it open, in its default."""
    return config if config.amp_dtype is not None else replace(config, amp_dtype=default_autocast(device))


@dataclass(frozen=True)
class FinetuneProblem:
    """Everything that shapes a fine-tuning, whatever becomes of it.

    Attributes
    ----------
    extractor : Extractor
        The backbone and the cut the head was trained at.
    manifest : Manifest
        Readable samples; the test split is not touched.
    head : Head
        Where training starts; one that was not fitted on the validation split.
    config : FinetuneConfig
        With an arithmetic: what was left open becomes the default of the extractor's device.
    seed : int
    rank : Rank
        One of several processes that train together, each with a share of every batch.
    balanced : bool
        Whether all classes count the same in the loss, or samples with a label and without it, whatever their numbers.
    """

    extractor: Extractor
    manifest: Manifest
    head: Head
    config: FinetuneConfig
    seed: int
    rank: Rank = SINGLE_PROCESS
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.config.amp_dtype is None:
            object.__setattr__(self, "config", with_arithmetic(self.config, self.extractor.device))

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.manifest.task

    @cached_property
    def train(self) -> Manifest:
        """The images that are trained on."""
        return self.manifest.select(self.manifest.indices("train"))

    @cached_property
    def class_weights(self) -> ClassWeights | None:
        """How much classes count in the loss; None where all count alike."""
        return ClassWeights.balanced(self.task, self.train.targets) if self.balanced else None

    @cached_property
    def val(self) -> Manifest:
        """The images that are validated on, by all processes together."""
        return self.manifest.select(self.manifest.indices("val"))

    @cached_property
    def sampler(self) -> ViewSampler:
        """Which images train of samples that have several."""
        return ViewSampler.of(self.head, self.config.finetune_batch_size // self.rank.world_size, self.seed)

    @cached_property
    def samples_per_batch(self) -> int:
        """Samples in a batch of all processes, so that there are about as many images in it as the options say."""
        if not self.train.images:
            return self.config.finetune_batch_size
        images = sum(map(self.sampler.size, self.train.images)) / len(self.train)
        ranks = self.rank.world_size
        return max(round(self.config.finetune_batch_size / images) // ranks, 1) * ranks

    @property
    def label_size(self) -> tuple[int, int]:
        """On how many labels, down and across, the loss is taken where each pixel has a class."""
        assert isinstance(self.head, MapHead)
        return self.head.label_size

    @property
    def own_val(self) -> Manifest:
        """Those that this process validates on."""
        return self.val.select(range(self.rank.index, len(self.val), self.rank.world_size))

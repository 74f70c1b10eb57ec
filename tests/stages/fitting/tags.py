"""A second, small task: any number of tags for each sample. What asks the task must do for it as for classes."""

import numpy as np
import torch
from torch.nn import functional

from cache.errors import DataError
from stages.tasks.base import mean_metric


class Tags:
    """Targets are 0 or 1 for each tag, float32 [b, tags]; a statistic is the share of tags that are wrong."""

    name = "tags"
    outputs = "logits"
    calibrates = False
    primary = "wrong_tags"

    def __init__(self, count):
        self.out_features = count
        self.metrics = {
            "wrong_tags": mean_metric("wrong_tags", "wrong tags", lambda wrong: wrong, higher_is_better=False)
        }

    def activate(self, output, shapes=None):
        return output.sigmoid()

    def statistic(self, activated, target):
        if not torch.isfinite(activated).all():
            raise DataError("diverged")
        return ((activated > 0.5) != (target > 0.5)).float().mean(dim=1).numpy()

    def mean_loss(self, output, target):
        logits, tags = torch.from_numpy(output), torch.from_numpy(target).double()
        return float(functional.binary_cross_entropy_with_logits(logits, tags))

    def soft_target(self, target):
        return target

    def strata(self, target):
        return None

    def weights(self, target):
        return None


def tagged(count=200, width=12, tags=3, seed=0):
    """Return rows [n, d] and tags [n, tags], each of them the side of a plane."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, width)).astype(np.float32)
    planes = generator.normal(size=(width, tags))
    return rows, (rows @ planes > 0).astype(np.float32)

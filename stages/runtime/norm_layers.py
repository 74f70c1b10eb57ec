"""The layers of torch that keep running statistics of what they normalize."""

from __future__ import annotations

from torch import nn

NORM_LAYERS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""For ``isinstance``; torch's own base class of these is not public."""

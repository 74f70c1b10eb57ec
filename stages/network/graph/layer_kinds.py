"""Kinds of layers of torchvision and timm that a graph treats in a way of its own.

They are imported when a graph asks for them, and not with the rooms that name graphs: both libraries take longer to
import than torch, and a head on cached features needs neither.
"""

from __future__ import annotations

from functools import cache

from torch import nn

Kinds = tuple[type[nn.Module], ...]
"""Exactly these kinds, not those derived from them: some standardize their weights, or do other things, when called."""


@cache
def convolutions() -> Kinds:
    """Return the kinds of convolutions that are computed with weights that are given."""
    return (nn.Conv2d, padding_as_in_tensorflow())


@cache
def padding_as_in_tensorflow() -> type[nn.Conv2d]:
    """Return timm's convolution that pads by the size of what it is given."""
    from timm.layers.conv2d_same import Conv2dSame

    kind: type[nn.Conv2d] = Conv2dSame
    return kind


@cache
def normalizations() -> Kinds:
    """Return the kinds of BatchNorm that are folded into the convolution below them, and do nothing else."""
    from torchvision.ops import FrozenBatchNorm2d

    return (nn.BatchNorm2d, FrozenBatchNorm2d)


@cache
def normalizations_with_activation() -> Kinds:
    """Return those that have an activation behind them."""
    from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d

    return (BatchNormAct2d, FrozenBatchNormAct2d)


@cache
def frozen_normalizations() -> Kinds:
    """Return those whose statistics never change, whatever the mode."""
    return (normalizations()[1], normalizations_with_activation()[1])

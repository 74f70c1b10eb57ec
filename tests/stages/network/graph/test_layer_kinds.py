"""Kinds of layers of other libraries, which are not imported with the rooms that name graphs."""

import subprocess
import sys

import timm.layers
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from stages.network.graph import layer_kinds


def test_all_kinds_are_there_and_the_frozen_ones_among_them():
    assert layer_kinds.convolutions()[0] is nn.Conv2d
    assert issubclass(layer_kinds.padding_as_in_tensorflow(), nn.Conv2d)
    assert FrozenBatchNorm2d in layer_kinds.normalizations()
    assert timm.layers.BatchNormAct2d in layer_kinds.normalizations_with_activation()
    every = {*layer_kinds.normalizations(), *layer_kinds.normalizations_with_activation()}
    assert set(layer_kinds.frozen_normalizations()) < every


def test_heads_are_imported_without_torchvision_and_timm():
    script = "import sys, stages.network.heads.serialization, stages.network.graph.hooked; "
    script += "sys.exit(bool({'timm', 'torchvision'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

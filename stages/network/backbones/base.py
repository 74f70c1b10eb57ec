"""What a family of backbones returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from stages.data.images.preprocessing import Preprocessing
from stages.network.backbones.partial_loading import PartialLoading
from stages.network.classifier import output_layers
from stages.runtime.seeding import fixed_seed

_SEED = 0


@dataclass(frozen=True)
class Backbone:
    """A network with its weights and its own preprocessing.

    Attributes
    ----------
    name
        The name it was asked for by.
    module
        The network, in evaluation mode, no parameter requiring gradients: images [b, 3, S, S] -> logits.
    weights
        Digest of all its tensors (see :func:`digest_of_weights`).
    weights_source
        Where the weights come from, in words.
    preprocessing
        How images become what the network was trained to see.
    num_classes
        Width of the logits.
    loading
        What of a file was loaded, where a part of it was to be.
    auxiliary
        The auxiliary classifiers of GoogLeNet and Inception v3, with the weights that came with the network's where
        there were any. They are no part of the module, of its digest, or of features.
    """

    name: str
    module: nn.Module
    weights: str
    weights_source: str
    preprocessing: Preprocessing
    num_classes: int
    loading: PartialLoading | None = None
    auxiliary: Mapping[str, nn.Module] = field(default_factory=dict)


class LoadedNetwork(NamedTuple):
    """A network as its family builds it, with what its images must look like and where its weights are from."""

    module: nn.Module
    preprocessing: Preprocessing
    source: str


@contextmanager
def fixed_init_seed() -> Iterator[None]:
    """Draw initial weights from one fixed seed and leave the random state of the program as it was."""
    with fixed_seed(_SEED):
        yield


def count_classes(module: nn.Module) -> int:
    """Return the width of the output layer; 0 where there is none."""
    weights = [module.get_parameter(f"{name}.weight") for name in output_layers(module)]
    return len(weights[0]) if weights else 0


def random_weights_source() -> str:
    """Return what is told of random weights."""
    return f"random, seed {_SEED}"

"""What a family of backbones returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

from stages.config.features import CropMode
from stages.data.images.preprocessing import Preprocessing
from stages.network.auxiliary_heads import AuxiliaryPlace
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
    identity
        What the cache calls it. For a library's network that is the name; for one of the user's own, its class and a
        digest of the source (see :func:`~stages.network.backbones.module_identity.identity_of_module`).
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
    auxiliary_places
        Where each of them belongs.
    handed_in
        Whether it is a module that Python handed in, so that its name does not load it.
    tuned_in
        The folder of the run in which it was fine-tuned; None where it is as it was published.
    """

    name: str
    identity: str
    module: nn.Module
    weights: str
    weights_source: str
    preprocessing: Preprocessing
    num_classes: int
    loading: PartialLoading | None = None
    auxiliary: Mapping[str, nn.Module] = field(default_factory=dict)
    auxiliary_places: Mapping[str, AuxiliaryPlace] = field(default_factory=dict)
    handed_in: bool = False
    tuned_in: Path | None = None

    def with_crop_mode(self, crop_mode: CropMode) -> Backbone:
        """Return the same network for images seen otherwise; ``center``, the option's default, leaves its own way."""
        preprocessing = self.preprocessing.with_crop_mode(crop_mode)
        return self if preprocessing == self.preprocessing else replace(self, preprocessing=preprocessing)

    def non_finite_weights(self) -> list[str]:
        """Return the names of the tensors of the network that hold NaN or infinity."""
        return [
            name
            for name, tensor in self.module.state_dict().items()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all())
        ]


class LoadedNetwork(NamedTuple):
    """A network as its family builds it.

    Attributes
    ----------
    module
        Images float [b, 3, S, S] -> logits, or whatever the network gives.
    preprocessing
        What its images must look like.
    source
        Where its weights are from, in words.
    auxiliary_places
        Names of its auxiliary classifiers, submodules that are of use in training alone, and where each belongs.
    identity
        What the cache calls the network, where its name does not say what is computed; None for the name.
    left_out
        Prefixes of what files of its weights hold besides, and the network is built without.
    tuned_in
        The folder of the run in which it was fine-tuned, if it was.
    """

    module: nn.Module
    preprocessing: Preprocessing
    source: str
    auxiliary_places: Mapping[str, AuxiliaryPlace] = MappingProxyType({})
    identity: str | None = None
    left_out: tuple[str, ...] = ()
    tuned_in: Path | None = None


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
